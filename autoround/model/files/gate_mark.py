"""The file that marks a folder whose model missed the gate it was held to."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from autoround.errors import OutputError
from autoround.storage.durable import write_text
from autoround.storage.files import remove_file

#: Its name; people see it in the folder too.
MARK = "GATE-FAILED.txt"
#: Characters of its first line that are repeated in a warning.
_SHOWN = 300


class GateFailedWarning(UserWarning):
    """A model is loaded that missed the gate it was held to when it was made."""


def mark_folder(folder: Path, failures: Sequence[str]) -> None:
    """Mark a folder as one whose model missed its gate, or take the mark away.

    Args:
        folder: of the model.
        failures: a sentence each; with none the folder is not marked.

    Raises:
        OutputError: the mark cannot be written or deleted.
    """
    path = folder / MARK
    if failures:
        write_text(path, "; ".join(failures) + "\n")
        return
    try:
        remove_file(path)
    except OSError as error:
        raise OutputError(f"{path} cannot be deleted: {error}") from error


def gate_failure(folder: Path) -> str:
    """Say that a folder's model missed its gate, and why; empty where it is not marked.

    Args:
        folder: of a model.
    """
    path = folder / MARK
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            reasons = " ".join(file.read(4 * _SHOWN).split())[:_SHOWN]
    except OSError:
        return ""
    return f"{folder} missed the gate of its run ({MARK}): {reasons}"


def warn_if_failed(folder: Path) -> None:
    """Warn where a folder's model missed its gate.

    Args:
        folder: of a model.
    """
    text = gate_failure(folder)
    if text:
        warnings.warn(text, GateFailedWarning, stacklevel=3)
