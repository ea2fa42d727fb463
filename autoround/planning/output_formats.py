"""The formats that a recipe asks for, found by name and resolved for its schemes."""

from __future__ import annotations

from collections.abc import Mapping

from autoround.errors import FormatError, RecipeError
from autoround.formats.registry import find_format, plan_output
from autoround.recipe.schema import Recipe
from autoround.types import OutputPlan, Scheme


def check_formats(recipe: Recipe) -> None:
    """Refuse names of formats that no package brings, where the recipe says them.

    Raises:
        RecipeError: with the recipe's file and line, or the words of a command line.
    """
    for name in recipe.output.formats:
        try:
            find_format(name)
        except FormatError as error:
            origin = recipe.output.format_origin
            where = f"{origin}: output.format" if origin else "output.format"
            raise RecipeError(f"{where}: {error}") from None


def plan_outputs(
    recipe: Recipe, dtype: str, *, schemes: Mapping[Scheme, str]
) -> tuple[OutputPlan, ...]:
    """Resolve the formats of a recipe.

    dtype: of kept tensors, where a format has no wish of its own.
    schemes: what layers are to be held in, and what asks for it.

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
        )
        for name in names
    )
