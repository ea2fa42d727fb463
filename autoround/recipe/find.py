"""Find recipes: those that come with the package by name, others by path."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from autoround.errors import AutoRoundError, RecipeError
from autoround.recipe.auto_round_words import RECIPE_NAMES

#: Endings that mark a word as the name of a file.
SUFFIXES = (".yaml", ".yml")


def builtin_names() -> tuple[str, ...]:
    """Return the names of the built-in recipes in alphabetical order."""
    return tuple(sorted(path.stem for path in _builtin_folder().glob("*.yaml")))


def builtin_path(name: str) -> Path:
    """Return the file of a built-in recipe.

    Raises:
        RecipeError: there is no such recipe; the message names the nearest ones.
    """
    names = builtin_names()
    name = RECIPE_NAMES.get(name, name)
    if name not in names:
        raise RecipeError(f"no built-in recipe {name!r}{_suggest(name, names)}")
    return _builtin_folder() / f"{name}.yaml"


def find_recipe(source: str | Path, *, folder: Path | None = None) -> Path:
    """Return the file that ``source`` means.

    A word without a path separator or a YAML ending is a built-in recipe first and a
    file second; anything else is a file. ``NAME.yaml`` that is no file stands for the
    built-in recipe NAME. A ``Path`` is always a file. Names of auto-round's programs stand for
    the recipes that do what these do.

    Args:
        source: name or path of a recipe.
        folder: where relative paths start; None is the working directory.

    Raises:
        RecipeError: there is no such recipe.
    """
    base = Path() if folder is None else folder
    if isinstance(source, Path):
        path = base / source
        if not _is_there(path):
            raise RecipeError(f"no file {str(path)!r}")
        return path
    names = builtin_names()
    name = Path(source).stem if source.endswith(SUFFIXES) else source
    plain = not any(separator in source for separator in (os.sep, os.altsep or os.sep))
    if plain and name == source and RECIPE_NAMES.get(name, name) in names:
        return builtin_path(name)
    path = base / os.path.expanduser(source)
    if source and _is_there(path):
        return path
    if plain and name in names:
        return builtin_path(name)
    raise RecipeError(f"no recipe {source!r}: no such file, nor built in{_suggest(name, names)}")


def _builtin_folder() -> Path:
    packaged = Path(__file__).parents[1] / "_recipes"
    if packaged.is_dir():
        return packaged
    checkout = Path(__file__).parents[2] / "recipes"
    if checkout.is_dir():
        return checkout
    raise AutoRoundError(f"the built-in recipes are missing from {packaged}; reinstall the package")


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name too long, or with a null character
        return False


def _suggest(name: str, names: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    meant = f"; did you mean {close[0]!r}?" if close else "."
    return f"{meant} Built-in recipes: {', '.join(names)}"
