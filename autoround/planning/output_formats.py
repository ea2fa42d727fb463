"""The formats that a recipe asks for, found by name and resolved for its schemes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from autoround.formats.format import Weight
from autoround.formats.registry import plan_output
from autoround.formats.written import part_shape
from autoround.model.blocks import Matrix
from autoround.model.skeleton import Skeleton
from autoround.planning.layer_rules import Rules
from autoround.planning.layer_scheme import matches, plan_layer
from autoround.planning.non_block_layers import asked_outside
from autoround.recipe.schema import Recipe
from autoround.types import OutputPlan, Scheme


def plan_outputs(
    recipe: Recipe, dtype: str, *, schemes: Mapping[Scheme, str], weights: Collection[Weight]
) -> tuple[OutputPlan, ...]:
    """Resolve the formats of a recipe.

    dtype: of kept tensors, where a format has no wish of its own.
    schemes: what layers are to be held in, and what asks for it.
    weights: all matrices that a scheme is asked for, the head's and those of towers too.

    Raises:
        FormatError: a format cannot hold the recipe's scheme.
    """
    names = recipe.output.formats
    return tuple(
        plan_output(
            name,
            schemes or {recipe.scheme.as_scheme(): ""},
            dtype=dtype,
            chosen=recipe.output.dtype != "auto",
            folder=name.replace(":", "-") if len(names) > 1 else "",
            weights=weights,
        )
        for name in names
    )


def weights_asked_for(
    rules: Rules, skeleton: Skeleton, inside: Iterable[Matrix], outside: Iterable[Matrix]
) -> list[Weight]:
    """Return the matrices that a recipe asks a scheme for, as files have them.

    Args:
        rules: of the recipe.
        skeleton: the model.
        inside: matrices of the decoder blocks.
        outside: those elsewhere.
    """
    recipe = rules.recipe
    base = recipe.scheme.as_scheme()
    asked = [(m, rules.asked(m.name, base).scheme) for m in inside]
    asked += [(m, asked_outside(rules, skeleton, m).scheme) for m in outside]
    return [
        Weight(part_shape(plan_layer(skeleton, m, scheme, "")), scheme)
        for m, scheme in asked
        if scheme is not None and not m.why_kept
        if not any(matches(pattern, m.name) for pattern in recipe.ignore)
    ]
