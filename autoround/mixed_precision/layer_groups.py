"""What an allocation decides on: layers that take one option together, and what each may take."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from autoround.errors import RecipeError
from autoround.formats.merged_layers import merged_under
from autoround.formats.registry import format_of
from autoround.mixed_precision.options import options_for, schemes_of, why_unfit
from autoround.mixed_precision.perturbation import ScoredModule
from autoround.model.blocks import head_path, matrices
from autoround.model.skeleton import Skeleton
from autoround.planning.layer_rules import apply_rules
from autoround.planning.plan import outside_of
from autoround.recipe.schema import Recipe
from autoround.types import LayerPlan, OutputPlan, Plan, Scheme


@dataclass(frozen=True, slots=True)
class LayerGroup:
    """Layers that share an option: one, those that are merged when served, or experts.

    options: what they may take, None for 16 bit. sizes: bytes of all its layers in each.
    """

    name: str
    layers: tuple[LayerPlan, ...]
    options: tuple[Scheme | None, ...]
    sizes: tuple[int, ...]

    @property
    def weights(self) -> int:
        """The number of weights in it."""
        return sum(math.prod(layer.shape) for layer in self.layers)


def layer_groups(recipe: Recipe, skeleton: Skeleton, plan: Plan) -> list[LayerGroup]:
    """Gather the layers that a plan quantizes into groups, each with what it may take.

    The head is one where the recipe lets it take part; layers that are kept are none.

    Raises:
        RecipeError, FormatError: as for :func:`schemes_of`.
    """
    output = plan.outputs[0]
    options = schemes_of(recipe, output)
    wish = recipe.allocate.fused
    merged = format_of(output).merges_layers if wish == "auto" else wish
    groups = []
    ruled = ruled_layers(recipe, skeleton, plan)
    for block in plan.blocks:
        sharing: dict[str, list[LayerPlan]] = {}
        for layer in (x for x in block.quantized if x.name not in ruled):
            sharing.setdefault(_together(layer, merged=merged), []).append(layer)
        groups += [_group(name, own, options, output) for name, own in sharing.items()]
    head = scored_head(recipe, skeleton, plan)
    if head is not None:
        kept = [None] if None in options else []
        fitting = [*head.options, *kept]
        group = _group(head.name, head.layers, fitting, output)
        groups.append(_unwritten(group, skeleton))
    return [group for group in groups if group.options]


def scored_head(recipe: Recipe, skeleton: Skeleton, plan: Plan) -> ScoredModule | None:
    """Return the output head with the options it may take; None where it takes no part.

    Raises:
        RecipeError: the head of this model has no choice, or no option has bits enough.
    """
    floor, output = recipe.allocate.lm_head, plan.outputs[0]
    if floor == "none":
        return None
    options = schemes_of(recipe, output)
    head = next((x for x in plan.kept if x.name == head_path(skeleton.model)), None)
    one = format_of(output)
    if head is None or one.headless() or one.gguf_types:
        raise RecipeError(
            f"allocate.lm_head: {output.format} has no choice of bits for the head of this "
            "model; set it to none"
        )
    if head.scheme is not None:
        raise RecipeError(
            "allocate.lm_head, and a rule or the section lm_head, both speak of the head; keep one"
        )
    fitting = tuple(x for x in options if x is not None and x.bits >= floor)
    if not fitting and None not in options:
        raise RecipeError(f"allocate.lm_head: no option has {floor} bits or more")
    return ScoredModule(
        head.name, head.path, (head,), tuple(x for x in fitting if not why_unfit(head, x, output))
    )


def _unwritten(group: LayerGroup, skeleton: Skeleton) -> LayerGroup:
    """Count nothing for a head that is kept where it shares its weight with the embeddings."""
    if group.layers[0].tensor not in skeleton.tied:
        return group
    pairs = zip(group.options, group.sizes, strict=True)
    return replace(group, sizes=tuple(0 if o is None else size for o, size in pairs))


def ruled_layers(recipe: Recipe, skeleton: Skeleton, plan: Plan) -> frozenset[str]:
    """Return the layers that rules of the recipe decide about, which a budget leaves alone."""
    if not recipe.layers:
        return frozenset()
    found = {block: matrices(skeleton.model, block) for block in skeleton.blocks}
    rules = apply_rules(recipe, skeleton, found, outside_of(skeleton))
    owner = rules.gguf if format_of(plan.outputs[0]).gguf_types else rules.plain
    return frozenset(name for name in rules.names if owner(name) is not None)


def scored_modules(recipe: Recipe, skeleton: Skeleton, plan: Plan) -> list[list[ScoredModule]]:
    """Return what is judged by itself, for each block: linear layers, and modules of experts."""
    ruled = ruled_layers(recipe, skeleton, plan)
    output = plan.outputs[0]
    options = [scheme for scheme in schemes_of(recipe, output) if scheme is not None]
    found = []
    for block in plan.blocks:
        sharing: dict[str, list[LayerPlan]] = {}
        for layer in (x for x in block.quantized if x.name not in ruled):
            sharing.setdefault(module_name(layer), []).append(layer)
        found.append([_part(name, own, options, output) for name, own in sharing.items()])
    return found


def module_name(layer: LayerPlan) -> str:
    """Return the name of the part that a layer is judged in."""
    return layer.name.rpartition(".")[0] if layer.experts else layer.name


def _part(
    name: str, layers: Sequence[LayerPlan], options: Sequence[Scheme], output: OutputPlan
) -> ScoredModule:
    fitting = (s for s in options if not any(why_unfit(layer, s, output) for layer in layers))
    path = layers[0].path.rpartition(".")[0] if layers[0].experts else layers[0].path
    return ScoredModule(name, path, tuple(layers), tuple(fitting))


def _together(layer: LayerPlan, *, merged: bool) -> str:
    """Return a name for what must agree with a layer: it alone, or more."""
    if layer.experts:
        return module_name(layer)
    return merged_under(layer.name, experts_only=not merged) or layer.name


def _group(
    name: str, layers: Sequence[LayerPlan], options: Iterable[Scheme | None], output: OutputPlan
) -> LayerGroup:
    kind = options_for(output)
    fitting = tuple(
        option for option in options if not any(why_unfit(x, option, output) for x in layers)
    )
    sizes = tuple(sum(kind.layer_bytes(x, option) for x in layers) for option in fitting)
    return LayerGroup(name, tuple(layers), fitting, sizes)
