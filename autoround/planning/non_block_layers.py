"""The plan for what lies outside the decoder blocks: the output head, and towers."""

from __future__ import annotations

from autoround.errors import FormatError, RecipeError
from autoround.formats.registry import format_of, layout_named
from autoround.model.blocks import Matrix, head_path, vision_blocks
from autoround.model.skeleton import Skeleton
from autoround.planning.layer_rules import Rules
from autoround.planning.layer_scheme import RequestedScheme, plan_layer, plan_scheme
from autoround.types import LayerPlan, OutputPlan

#: Why tensors are copied that transformers' class does not know.
UNMAPPED = "unknown to the model class, copied as it is"


def plan_non_block_layers(
    rules: Rules, skeleton: Skeleton, outside: list[Matrix], outputs: tuple[OutputPlan, ...]
) -> tuple[tuple[LayerPlan, ...], list[str]]:
    """Resolve what lies outside the decoder blocks: kept, but for a head or towers asked for.

    Raises:
        FormatError: a format's clients cannot read what was asked for.
    """
    recipe = rules.recipe
    head = head_path(skeleton.model)
    towers = tuple(path + "." for path in vision_blocks(skeleton.model, skeleton.blocks))
    found: list[LayerPlan] = []
    for m in outside:
        asked = asked_outside(rules, skeleton, m)
        if asked.scheme is not None or asked.reason:
            found.append(plan_scheme(skeleton, m, asked, recipe.ignore, outputs))
            continue
        reason = m.why_kept or "outside the decoder blocks"
        if not m.why_kept and m.name.startswith(towers):
            reason = "in a vision or audio tower (quantize_vision: true includes it)"
        found.append(plan_layer(skeleton, m, None, reason))
    _check_head(rules, head, next((x for x in found if x.name == head), None), outputs)
    return (*found, *_strangers(skeleton)), _outside_notes(skeleton, found, head)


def asked_outside(rules: Rules, skeleton: Skeleton, matrix: Matrix) -> RequestedScheme:
    """Return what a recipe asks for a matrix outside the decoder blocks.

    Args:
        rules: of the recipe.
        skeleton: the model.
        matrix: a head, one of a tower, or another.
    """
    recipe = rules.recipe
    if matrix.name == head_path(skeleton.model):
        return rules.asked(matrix.name, recipe.lm_head.as_scheme(recipe.scheme))
    if recipe.quantize_vision:
        towers = tuple(path + "." for path in vision_blocks(skeleton.model, skeleton.blocks))
        if matrix.name.startswith(towers):
            return rules.asked(matrix.name, recipe.scheme.as_scheme())
    return RequestedScheme(None, "")


def _strangers(skeleton: Skeleton) -> list[LayerPlan]:
    """List matrices of the checkpoint that the model class drops: layers that predict further.

    Engines run them, and take them for quantized by their place unless a config says otherwise.
    """
    headers = skeleton.source.headers()
    return [
        LayerPlan(name.removesuffix(".weight"), (shape[0], shape[1]), None, UNMAPPED)
        for name, shape in ((name, headers[name][0]) for name in skeleton.unmapped)
        if name.endswith(".weight") and len(shape) == 2
    ]


def _check_head(
    rules: Rules, name: str, head: LayerPlan | None, outputs: tuple[OutputPlan, ...]
) -> None:
    """Refuse a quantized head that cannot be written, or that nobody would read."""
    recipe = rules.recipe
    scheme = rules.asked(name, recipe.lm_head.as_scheme(recipe.scheme)).scheme
    if scheme is None:
        return
    rule = rules.plain(name)
    asking = "lm_head.bits" if rule is None else rules.place(rule)
    if head is None:
        raise RecipeError(f"{asking}: this model has no output head to quantize")
    for output in outputs:
        reason = layout_named(output.packing).illegal(scheme) or format_of(output).headless()
        if reason:
            asked = f"{asking}={scheme.bits}" if rule is None else f"{asking}, {scheme},"
            raise FormatError(f"{asked} in format {output.format}: {reason}")
    if head.scheme is None:
        raise RecipeError(f"{asking}: the head stays in 16 bit: {head.reason}")


def _outside_notes(skeleton: Skeleton, found: list[LayerPlan], head: str) -> list[str]:
    notes = []
    towers = [x for x in found if x.scheme is not None and x.name != head]
    if towers:
        notes.append(
            f"{len(towers)} layers of vision or audio towers are rounded by searched scales, "
            "not tuned"
        )
    tied = next((x for x in found if x.scheme is not None and x.tensor in skeleton.tied), None)
    if tied is not None:
        notes.append(
            f"{tied.name} shares its weight with the embeddings, which stay in 16 bit: it is "
            "written beside them, and tie_word_embeddings is set to false"
        )
    return notes
