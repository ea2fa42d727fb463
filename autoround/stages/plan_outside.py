"""The plan for what lies outside the decoder blocks: the output head, and towers."""

from __future__ import annotations

from autoround.errors import FormatError, RecipeError
from autoround.formats import layouts
from autoround.model.blocks import Matrix, head_path, vision_blocks
from autoround.model.skeleton import Skeleton
from autoround.recipe.schema import Recipe
from autoround.stages.resolve import plan_layer, resolve
from autoround.types import LayerPlan, OutputPlan

#: Why tensors are copied that transformers' class does not know.
STRANGER = "unknown to the model class, copied as it is"


def plan_outside(
    recipe: Recipe, skeleton: Skeleton, outside: list[Matrix], outputs: tuple[OutputPlan, ...]
) -> tuple[tuple[LayerPlan, ...], list[str]]:
    """Resolve what lies outside the decoder blocks: kept, but for a head or towers asked for.

    Raises:
        FormatError: a format's clients cannot read what was asked for.
    """
    packings = [output.packing for output in outputs]
    head = head_path(skeleton.model)
    towers = tuple(path + "." for path in vision_blocks(skeleton.model, skeleton.blocks))
    found: list[LayerPlan] = []
    for m in outside:
        asked = None
        if m.name == head:
            asked = recipe.lm_head.as_scheme(recipe.scheme)
        elif recipe.quantize_vision and m.name.startswith(towers):
            asked = recipe.scheme.as_scheme()
        if asked is not None:
            found.append(resolve(skeleton, m, asked, recipe.ignore, packings))
            continue
        reason = "outside the decoder blocks"
        if m.name.startswith(towers):
            reason = "in a vision or audio tower (quantize_vision: true includes it)"
        found.append(plan_layer(skeleton, m, None, reason))
    _check_head(recipe, next((x for x in found if x.name == head), None), outputs)
    return (*found, *_strangers(skeleton)), _outside_notes(skeleton, found, head)


def _strangers(skeleton: Skeleton) -> list[LayerPlan]:
    """List matrices of the checkpoint that the model class drops: layers that predict further.

    Engines run them, and take them for quantized by their place unless a config says otherwise.
    """
    headers = skeleton.source.headers()
    return [
        LayerPlan(name.removesuffix(".weight"), (shape[0], shape[1]), None, STRANGER)
        for name, shape in ((name, headers[name][0]) for name in skeleton.extras)
        if name.endswith(".weight") and len(shape) == 2
    ]


def _check_head(recipe: Recipe, head: LayerPlan | None, outputs: tuple[OutputPlan, ...]) -> None:
    """Refuse a quantized head that cannot be written, or that nobody would read."""
    if recipe.lm_head.bits >= 16:
        return
    scheme = recipe.lm_head.as_scheme(recipe.scheme)
    if head is None or scheme is None:
        raise RecipeError("lm_head.bits: this model has no output head to quantize")
    for output in outputs:
        reason = layouts.illegal(scheme, output.packing) or layouts.headless(output.packing)
        if reason:
            raise FormatError(f"lm_head.bits={scheme.bits} in format {output.format}: {reason}")
    if head.scheme is None:
        raise RecipeError(f"lm_head.bits: the head stays in 16 bit: {head.reason}")


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
