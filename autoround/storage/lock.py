"""Files and folders that one process at a time works on."""

from __future__ import annotations

import os
from pathlib import Path

from autoround.errors import OutputError
from autoround.storage.files import open_to_lock


def take_lock(path: Path, what: Path) -> int:
    """Keep other processes off a file or folder, until the descriptor is closed or this one ends.

    Args:
        path: a folder that is there, or a file, which is made if it is not.
        what: names the work in messages.

    Returns:
        The descriptor that holds the lock.

    Raises:
        OutputError: another process holds it, or it cannot be opened.
    """
    try:
        descriptor = open_to_lock(path)
    except OSError as error:
        raise OutputError(f"{what} cannot be written: {error}") from error
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        pass  # no such locks on this system
    except OSError as error:
        os.close(descriptor)
        raise OutputError(f"another run is at work on {what}; wait for it") from error
    if not _is_at(path, descriptor):
        # Between the two steps another run ended, and took it away.
        os.close(descriptor)
        raise OutputError(f"another run was at work on {what} just now; run the command again")
    return descriptor


def _is_at(path: Path, descriptor: int) -> bool:
    """Tell whether an open file or folder still has the name it was opened by."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except OSError:
        return False
