"""Values of flags and arguments, as what a recipe is loaded with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from autoround.recipe.flags import BUDGETS, Flag
from autoround.recipe.load import OverrideSource


class RecipeChanges(NamedTuple):
    """What :func:`autoround.recipe.load.load_recipe` takes beside the name of a recipe."""

    values: dict[str, object]
    additions: dict[str, OverrideSource]


def read_arguments(
    flags: Iterable[Flag], given: Mapping[str, Any], *, typed: Callable[[Flag, Any], str]
) -> RecipeChanges:
    """Return the changes to a recipe that values of flags stand for.

    Args:
        flags: rows of the table.
        given: values by names of flags; None for those not given.
        typed: says a flag with its value the way it was given.
    """
    # A budget that is given takes the place of the recipe's, whichever that has.
    budgeted = any(given.get(key) is not None for key in BUDGETS)
    others = {key: "none" for key in BUDGETS if budgeted and given.get(key) is None}
    values: dict[str, object] = {}
    additions: dict[str, OverrideSource] = {}
    for flag in flags:
        value = others.get(flag.name, given.get(flag.name))
        if value is None:
            continue
        origin = typed(flag, value)
        try:
            override = OverrideSource(flag.read(value), origin)
        except ValueError as error:
            override = OverrideSource(None, origin, str(error))
        if flag.appended:
            additions[flag.key] = override
        else:
            values[flag.key] = override
    return RecipeChanges(values, additions)
