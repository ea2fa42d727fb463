"""The ``autoround`` command: errors become messages and exit codes here, nowhere else."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from autoround._version import __version__
from autoround.cli import (
    allocate,
    bench,
    convert,
    doctor,
    evaluate,
    generate,
    inspect,
    kernels,
    plan,
    quantize,
    recipes,
)
from autoround.cli._options import Invocation
from autoround.errors import INTERRUPTED_EXIT_CODE, AutoRoundError

app = typer.Typer(
    name="autoround",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="""Quantize language models to 2-8 bits by tuning the rounding of every weight.

\b
Examples:
  autoround quantize --eval                          # the embedded default model
  autoround quantize path/to/model --recipe light --output-dir out
  autoround plan path/to/model --bits 2              # what would happen, and its cost
  autoround allocate path/to/model --avg-bits 3      # which layer needs how many bits
  autoround eval out --original path/to/model
  autoround generate out "The capital of France is"
  autoround bench out --original path/to/model       # tokens a second, memory
  autoround kernels out                              # which kernel runs what, and why
  autoround inspect out                              # what is quantized how, and its size
  autoround convert out --to auto_awq -o awq         # another format, bit for bit
  autoround doctor                                   # what runs here, what does not, and why
""",
)
#: click's base of usage errors; recent releases of typer bring a click of their own.
_COMMAND_LINE_ERROR: type[BaseException] = next(
    c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException"
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"autoround {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Quantize language models."""


for part in (
    *(quantize, plan, allocate, evaluate, generate, bench, kernels, inspect, convert),
    doctor,
):
    app.add_typer(part.app)
app.add_typer(recipes.app, name="recipes")


def run(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: words after the program's name; None for those of the process.

    Returns:
        The exit code: docs/exit-codes.md has the table.
    """
    command = typer.main.get_command(app)
    # Travels with typer's context, so that a command can say how to go on.
    invocation = Invocation(sys.argv[1:] if arguments is None else arguments)
    try:
        outcome = command.main(
            args=arguments, prog_name="autoround", standalone_mode=False, obj=invocation
        )
    except AutoRoundError as error:
        for line in str(error).splitlines():
            typer.echo(f"error: {line}", err=True)
        if invocation.hint:
            typer.echo(invocation.hint, err=True)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        # Some releases of typer turn an interruption into this code, some let it through.
        outcome = INTERRUPTED_EXIT_CODE
    except _COMMAND_LINE_ERROR as error:
        error.show()  # type: ignore[attr-defined]
        code: int = error.exit_code  # type: ignore[attr-defined]
        return 0 if type(error).__name__ == "NoArgsIsHelpError" else code
    if outcome == INTERRUPTED_EXIT_CODE:
        typer.echo(f"interrupted: {invocation.hint or 'nothing was written'}", err=True)
    return outcome if isinstance(outcome, int) else 0
