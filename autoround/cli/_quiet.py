"""Silence for the libraries below while a command works."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from autoround.cli._output import echo
from autoround.model.files.gate_mark import GateFailedWarning
from autoround.tested import UntestedVersionWarning, untested_transformers


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence progress bars and advice of the libraries below; errors still come through.

    Says first where one of them is newer than tested, in one line on the standard error stream.
    """
    with quiet_warnings(), quiet_transformers():
        yield


@contextmanager
def quiet_warnings() -> Iterator[None]:
    """Say where a library is newer than tested, and keep to that line; nothing is imported."""
    untested = untested_transformers()
    if untested:
        echo(f"warning: {untested}", err=True)
    with warnings.catch_warnings():
        # It has been said; whatever loads a model would say it again.
        warnings.simplefilter("ignore", UntestedVersionWarning)
        _tell_in_a_line(GateFailedWarning)
        yield


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence progress bars and advice of transformers, which is imported for that."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        logging.enable_progress_bar()


def _tell_in_a_line(kind: type[Warning]) -> None:
    """Print warnings of a kind without the place in the code, until filters are put back."""
    shown = warnings.showwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, kind):
            echo(f"warning: {message}", err=True)
        else:
            shown(message, category, filename, lineno, file, line)

    warnings.showwarning = show
