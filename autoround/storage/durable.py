"""Files that are on the disk whole or not at all, and survive a power cut."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError

from autoround.errors import OutputError
from autoround.storage.files import (
    make_folder,
    remove_file,
    replace,
    sync_path,
    write_by,
    write_file,
)


def replace_synced(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file aside, sync it, and rename it: it is there whole or not at all.

    Args:
        path: of the file.
        write: is given the path to write to.

    Raises:
        OutputError: the disk is full, or cannot be written to.
    """
    _replace(path, lambda aside: write_by(aside, write))


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    _replace(path, lambda aside: write_file(aside, text))


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    aside = path.with_name(path.name + ".tmp")
    try:
        write(aside)
        sync_path(aside)
        replace(aside, path)
        sync_path(path.parent)
    except (OSError, SafetensorError) as error:
        # Of no use to anybody, and the disk may be full.
        with suppress(OSError):
            remove_file(aside)
        raise OutputError(f"{path} cannot be written: {error}") from error


def existing_parent(path: Path) -> Path:
    """Return the nearest folder above a path that exists: the disk it will be on."""
    return next(p for p in path.absolute().parents if p.exists())


def make_synced(folder: Path) -> None:
    """Make a folder, and those above it, so that they survive a power cut; raises OSError."""
    missing = [p for p in (folder, *folder.parents) if not p.exists()]
    make_folder(folder)
    for path in missing or [folder]:
        sync_path(path.parent)
