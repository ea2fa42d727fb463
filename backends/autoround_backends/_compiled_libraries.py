"""Libraries that torch compiled for blocks, kept for the next process and believed only when whole.

torch names a library by its source and the command that builds it, and loads whatever has that
name. So a process compiles into a folder of its own, and what lies in the user's cache comes into
it only when its digest is right and nobody else can have written it. Nothing but libraries is
kept: neither pickles nor Python.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch

from autoround_backends._kernel_cache import DIGEST, is_whole, keep, open_cache
from autoround_backends._native import processor

#: Bytes of libraries that are kept; beyond them the oldest go.
MOST_BYTES = 128 << 20
#: Bytes of the header of a 64-bit ELF file.
ELF_HEADER = 64
#: torch's names; the two characters after the first name the folder it looks in.
NAME = re.compile(r"c[a-z2-7]{16,80}(\.[a-z]{1,16})?\.so")


class LibraryCache(NamedTuple):
    """Where libraries are kept; None for a reason."""

    folder: Path | None
    reason: str = ""


def default_cache() -> Path:
    """Return where libraries are kept."""
    return Path.home() / ".cache" / "autoround" / "compiled"


def open_libraries(compiler: str, wanted: Path | None = None) -> LibraryCache:
    """Find the cache of a compiler's libraries, made where it is not there yet.

    Args:
        compiler: path of the C++ compiler; another release of it builds anew.
        wanted: folder of all such caches; None for the user's.
    """
    try:
        root = wanted or default_cache()
        folder = root / _key(compiler)
        reason = open_cache(root) or open_cache(folder)
    except (OSError, RuntimeError) as error:
        return LibraryCache(None, f"no home folder to keep it in: {error}")
    return LibraryCache(None, reason) if reason else LibraryCache(folder)


def _key(compiler: str) -> str:
    """Name what decides a library beside its source: torch, the compiler's release, processor."""
    with suppress(OSError):
        place = Path(shutil.which(compiler) or compiler).resolve()
        status = place.stat()
        compiler = f"{place} {status.st_size} {status.st_mtime_ns}"
    parts = (torch.__version__, torch.__file__, compiler, processor())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def restore_libraries(cache: LibraryCache, folder: Path) -> None:
    """Copy what is whole to where torch looks for it; what is not will be compiled again.

    Args:
        cache: of this compiler.
        folder: that torch was given, of this process alone.

    Raises:
        OSError: the disk is full.
    """
    if cache.folder is None:
        return
    for path in cache.folder.iterdir():
        if NAME.fullmatch(path.name) and is_whole(path):
            target = folder / path.name[1:3] / path.name
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, target)


def keep_libraries(cache: LibraryCache, folder: Path) -> None:
    """Keep what this process compiled; a full disk costs the next one its time, no more.

    Args:
        cache: of this compiler.
        folder: that torch was given.
    """
    if cache.folder is None:
        return
    with suppress(OSError):
        kept = {path.name for path in cache.folder.iterdir()}
        for path in sorted(folder.glob("??/*.so")):
            if path.name in kept or not NAME.fullmatch(path.name) or not _is_finished(path):
                continue
            with tempfile.TemporaryDirectory(dir=cache.folder, prefix=".build-") as beside:
                copy = Path(beside) / path.name
                shutil.copyfile(path, copy)
                keep(copy, cache.folder / path.name)
        _make_room(cache.folder.parent)


def _is_finished(library: Path) -> bool:
    """Tell whether a compiler came to the end of a library.

    This process runs some; torch tries what the processor can do with others, in a process that is
    gone. Of these the linker writes the table of sections last.
    """
    with suppress(OSError, AttributeError):  # Windows has no such flag
        ctypes.CDLL(str(library), mode=os.RTLD_NOLOAD)
        return True
    data = library.read_bytes()
    if len(data) < ELF_HEADER or data[:6] != b"\x7fELF\x02\x01":
        return False
    start = int.from_bytes(data[40:48], "little")
    size, count = (int.from_bytes(data[at : at + 2], "little") for at in (58, 60))
    return start > 0 and count > 0 and start + size * count <= len(data)


def _make_room(root: Path) -> None:
    """Delete the oldest libraries beyond the bytes that are kept, whichever compiler made them."""
    stats = [(path.stat(), path) for path in root.glob("*/*.so")]
    total = sum(status.st_size for status, _ in stats)
    for status, path in sorted(stats, key=lambda pair: pair[0].st_mtime_ns):
        if total <= MOST_BYTES:
            return
        path.unlink(missing_ok=True)
        path.with_name(path.name + DIGEST).unlink(missing_ok=True)
        total -= status.st_size
