"""The commands on recipes: list, show, copy, validate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoround.cli._output import echo

app = typer.Typer(
    no_args_is_help=True,
    help="""List, show, copy and validate recipes.

\b
Examples:
  autoround recipes show light --resolved
  autoround recipes list
""",
)


@app.command("list")
def list_recipes() -> None:
    """List the built-in recipes and what each is for.

    \b
    Examples:
      autoround recipes list
      autoround recipes list > recipes.txt
    """
    from autoround.recipe.find import builtin_names
    from autoround.recipe.load import load_recipe

    names = builtin_names()
    width = max(map(len, names), default=0)
    for name in names:
        echo(f"{name:<{width}}  {load_recipe(name).description}")


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Built-in recipe or path of a file.")],
    resolved: Annotated[
        bool,
        typer.Option("--resolved", help="Print every key, with all that is extended merged in."),
    ] = False,
) -> None:
    """Print a recipe as it is written, or resolved.

    \b
    Examples:
      autoround recipes show light
      autoround recipes show light --resolved > mine.yaml
    """
    from autoround.recipe.load import load_recipe, read_source

    text = load_recipe(name).to_yaml() if resolved else read_source(name)
    echo(text, end="" if text.endswith("\n") else "\n", keep="\n\t")


@app.command()
def copy(
    name: Annotated[str, typer.Argument(help="Built-in recipe.")],
    dest: Annotated[
        Path | None,
        typer.Argument(help="File or folder to write to; NAME.yaml in this folder if left out."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Copy a built-in recipe to a file of your own.

    \b
    Examples:
      autoround recipes copy default
      autoround recipes copy w2 my-w2.yaml
    """
    from autoround.recipe.find import builtin_path

    source = builtin_path(name)
    target = Path() if dest is None else dest
    if target.is_dir():
        target = target / source.name
    _write(target, source.read_bytes().decode("utf-8"), force=force)
    echo(f"Wrote {target}")


@app.command()
def validate(
    files: Annotated[list[Path], typer.Argument(help="Recipe files.", metavar="FILE")],
) -> None:
    """Check recipe files and report every mistake with its file and line.

    Ends with exit code 3 if there is any.

    \b
    Examples:
      autoround recipes validate my-w2.yaml          # of recipes copy w2 my-w2.yaml
      autoround recipes validate my-w2.yaml default.yaml
    """
    from autoround.errors import RecipeError
    from autoround.planning.format_names import check_formats
    from autoround.recipe.load import load_recipe

    mistakes: list[str] = []
    for file in files:
        try:
            check_formats(load_recipe(file))
        except RecipeError as error:
            # Two files may extend a third: its mistakes are told once.
            mistakes.extend(line for line in str(error).splitlines() if line not in mistakes)
        else:
            echo(f"OK {file}")
    if mistakes:
        raise RecipeError("\n".join(mistakes))


def _write(target: Path, text: str, *, force: bool) -> None:
    """Write a file in one step, so that an interruption leaves the old one or the new one."""
    import os

    from autoround.errors import OutputError
    from autoround.storage.durable import write_text

    if os.path.lexists(target) and not force:
        raise OutputError(f"{target} is already there; give another name, or --force to replace it")
    write_text(target, text)
