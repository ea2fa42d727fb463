"""What commands print: every line of theirs comes through here."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import typer

from autoround._version import __version__
from autoround.errors import OutputError
from autoround.report.terminal import printable, wrap_words

if TYPE_CHECKING:
    from rich.console import Console

#: Columns of a terminal that says it has none.
COLUMNS = 80


def echo(text: str = "", *, err: bool = False, end: str = "\n", keep: str = "\t") -> None:
    """Print a text.

    Args:
        text: of any origin; characters that a terminal would obey are printed as escapes.
        err: whether it goes to the standard error stream.
        end: printed behind it.
        keep: characters of it to leave as they are.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        typer.echo(printable(text, keep=keep) + end, err=err, nl=False)
    except OSError as error:
        raise_unwritable(error)


def fit_terminal(line: str, *, indent: int) -> str:
    """Break a line between words where a terminal would break it within one; as it is elsewhere.

    Args:
        line: for the standard output.
        indent: columns before the lines that follow.
    """
    if not sys.stdout.isatty():
        return line
    return wrap_words(printable(line, keep="\t"), make_console().width, indent=indent)


def make_console(*, stderr: bool = False) -> Console:
    """Return a console for a report of progress.

    Args:
        stderr: whether it prints to the standard error stream.
    """
    from rich.console import Console

    console = Console(highlight=False, stderr=stderr)
    if console.width < 1:
        console.width = COLUMNS
    return console


def tell_start(*, stderr: bool = False) -> None:
    """Print a line on a terminal, at once: what follows takes libraries that take seconds.

    Args:
        stderr: whether the standard error stream is the one that people look at.
    """
    if (sys.stderr if stderr else sys.stdout).isatty():
        echo(f"autoround {__version__}", err=stderr)


def flush() -> None:
    """Write out what was printed.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        raise_unwritable(error)


def raise_unwritable(error: OSError) -> None:
    """Turn an error of a standard stream into one of this program's.

    Args:
        error: what writing raised.

    Raises:
        BrokenPipeError: whoever read the output went away.
        OutputError: any other reason.
    """
    if error.errno == errno.EPIPE:
        raise error
    raise OutputError(f"what this prints cannot be written: {error.strerror or error}") from error


def forget_output() -> None:
    """Let go of what could not be written, so that the interpreter does not try again at its end.

    Only where the streams are those of the process: a caller's own are left alone.
    """
    with suppress(OSError, ValueError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
                continue
            os.dup2(nothing, stream.fileno())
        os.close(nothing)
