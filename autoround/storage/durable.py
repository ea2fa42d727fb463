"""Files that are on the disk whole or not at all, and survive a power cut."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from autoround.errors import OutputError


def replace_synced(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file aside, sync it, and rename it: it is there whole or not at all.

    write: is given the path to write to.

    Raises:
        OutputError: the disk is full, or cannot be written to.
    """
    aside = path.with_name(path.name + ".tmp")
    try:
        write(aside)
        sync_path(aside)
        os.replace(aside, path)
        sync_path(path.parent)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"{path} cannot be written: {error}") from error


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    replace_synced(path, lambda aside: aside.write_text(text, encoding="utf-8"))


def existing_parent(path: Path) -> Path:
    """Return the nearest folder above a path that exists: the disk it will be on."""
    return next(p for p in path.absolute().parents if p.exists())


def sync_path(path: Path) -> None:
    """Make a file or a folder's entries survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_synced(folder: Path) -> None:
    """Make a folder, and those above it, so that they survive a power cut; raises OSError."""
    missing = [p for p in (folder, *folder.parents) if not p.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing or [folder]:
        sync_path(path.parent)
