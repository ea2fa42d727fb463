"""The names of formats that a recipe asks for, looked at before anything of them is imported."""

from __future__ import annotations

from autoround.errors import FormatError, RecipeError
from autoround.formats.names import BUILT_IN_NAMES
from autoround.recipe.schema import Recipe


def check_formats(recipe: Recipe) -> None:
    """Refuse names of formats that no package brings, where the recipe says them.

    Raises:
        RecipeError: with the recipe's file and line, or the words of a command line.
    """
    for name in recipe.output.formats:
        if name in BUILT_IN_NAMES:
            continue
        # Not at the top of the module: formats import torch, and a name of ours needs none.
        from autoround.formats.registry import find_format

        try:
            find_format(name)
        except FormatError as error:
            origin = recipe.output.format_origin
            where = f"{origin}: output.format" if origin else "output.format"
            raise RecipeError(f"{where}: {error}") from None
