"""Whether an output can be written, before any work: its folder, and the room on the disks."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from autoround.errors import OutputError
from autoround.storage.durable import existing_parent
from autoround.types import Destination, Estimate


def check_name(folder: Path) -> None:
    """Refuse a name that no folder can have.

    Args:
        folder: of an output.

    Raises:
        OutputError: it is too long for the file system, or has characters that none takes.
    """
    try:
        # What is written until it is complete has a longer name.
        os.stat(folder.with_name(f"{folder.name}.journal.tmp"))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"output folder {str(folder)[:100]} cannot be made: {reason}") from error


def check_output(folder: Path) -> None:
    """Refuse an output folder that would be overwritten or cannot be made.

    Raises:
        OutputError: it is a file, is not empty, or its parent cannot be written to.
    """
    check_name(folder)
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"output {folder} is a file; name a folder that does not exist yet")
    if folder.is_dir() and any(folder.iterdir()):
        raise OutputError(
            f"output folder {folder} is not empty; name another one, or remove it first"
        )
    parent = next(p for p in [folder.absolute(), *folder.absolute().parents] if p.exists())
    if not parent.is_dir():
        raise OutputError(f"output folder {folder} cannot be made: {parent} is a file")
    if not os.access(parent, os.W_OK):
        raise OutputError(f"output folder {folder} cannot be made: {parent} is not writable")


def check_room(folder: Path, needed: int) -> None:
    """Refuse a disk without room for the result.

    Args:
        folder: the output, which need not exist.
        needed: bytes.

    Raises:
        OutputError: with both figures.
    """
    parent = existing_parent(folder)
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise OutputError(
            f"output needs {needed / 1e9:.2f} GB, and {parent} has {free / 1e9:.2f} GB free"
        )


def check_cache_room(cache: Path, output: Path, estimate: Estimate) -> None:
    """Refuse a disk without room for the files of a model that is streamed.

    Args:
        cache: a folder of the hub's cache.
        output: the output, which need not exist; what it takes adds up on one disk.
        estimate: what both take.

    Raises:
        OutputError: with both figures.
    """
    needed, what = estimate.fetched_bytes, "files from the hub"
    if os.stat(cache).st_dev == os.stat(existing_parent(output)).st_dev:
        needed, what = needed + estimate.disk_bytes, f"{what} and the output"
    free = shutil.disk_usage(cache).free
    if free < needed:
        raise OutputError(
            f"{what} need {needed / 1e9:.2f} GB at a time, and {cache} has {free / 1e9:.2f} GB free"
        )


def room_for_journal(destination: Destination, estimate: Estimate, *, max_shard_bytes: int) -> bool:
    """Tell whether the disks have room for a journal beside the output.

    Args:
        destination: where output and activations go.
        estimate: what they take.
        max_shard_bytes: a shard that is not what was expected is written twice before its first
            copy is deleted.

    Raises:
        OutputError: there is no room, and activations must live on the disk; with both figures.
    """
    folder = existing_parent(destination.folder)
    work = folder
    if destination.work_dir is not None:
        # Parents alone are looked at: with a name below it, the folder is one of them.
        work = existing_parent(destination.work_dir / "x")
    needed = estimate.disk_bytes + min(max_shard_bytes, estimate.disk_bytes)
    kept, streams = estimate.journal_bytes, 2 * estimate.stream_bytes
    # On one disk output and journal, which has the streams in it, add up.
    if not kept or os.stat(work).st_dev == os.stat(folder).st_dev:
        fits = shutil.disk_usage(folder).free >= needed + kept
    else:
        fits = shutil.disk_usage(folder).free >= needed + kept - streams
        fits = fits and shutil.disk_usage(work).free >= streams
    if not fits and kept and estimate.streams_on_disk:
        raise OutputError(
            f"output and journal need {(needed + kept) / 1e9:.2f} GB ({streams / 1e9:.2f} GB of "
            f"them for streams, in {work}), and {folder} has "
            f"{shutil.disk_usage(folder).free / 1e9:.2f} GB free"
        )
    return fits and kept > 0
