"""Libraries built on this machine, kept for the next process and believed only when whole.

A library is loaded into this process, so that whoever can write it can run anything: it has to be
this user's, in a folder of this user's that nobody else may write. A power cut may leave a part of
one: the digest of each stands beside it, and what does not match is built again.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

#: What is added to a library's name for the file of its digest.
DIGEST = ".sha256"


def why_not_trusted(path: Path) -> str:
    """Return why a file or folder may hold what another user put there; empty if it cannot.

    Args:
        path: is there.
    """
    status = path.stat()
    if not hasattr(os, "geteuid"):
        return ""
    if status.st_uid not in (os.geteuid(), 0):
        return f"{path} belongs to another user"
    # Many systems give each user a group of their own, and let it write.
    shared = status.st_mode & stat.S_IWGRP and status.st_gid != os.getegid()
    if shared or status.st_mode & stat.S_IWOTH:
        return f"{path} can be written by other users"
    return ""


def open_cache(folder: Path) -> str:
    """Make a folder for libraries, where it is not there yet.

    Args:
        folder: of the cache.

    Returns:
        Why it cannot be used; empty where it can.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        reason = why_not_trusted(folder)
    except OSError as error:
        return f"{folder}: {error.strerror or error}"
    return reason or ("" if os.access(folder, os.W_OK) else f"{folder} cannot be written")


def is_whole(library: Path) -> bool:
    """Tell whether a library is there, all of it, and nobody else can have written it.

    Args:
        library: in a folder that can be used.
    """
    try:
        if why_not_trusted(library):
            return False
        expected = library.with_name(library.name + DIGEST).read_text(encoding="ascii").strip()
        return hashlib.sha256(library.read_bytes()).hexdigest() == expected
    except (OSError, ValueError):
        return False


def keep(built: Path, library: Path) -> None:
    """Move a library into its place, with its digest beside it.

    Args:
        built: on the same file system.
        library: its place.

    Raises:
        OSError: it cannot be written.
    """
    digest = hashlib.sha256(built.read_bytes()).hexdigest()
    beside = built.with_name(built.name + DIGEST)
    beside.write_text(digest + "\n", encoding="ascii")
    # Whatever the umask lets others do.
    for file, place in ((built, library), (beside, library.with_name(library.name + DIGEST))):
        file.chmod(0o600)
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
        os.replace(file, place)
