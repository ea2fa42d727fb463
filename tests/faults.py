"""Ends of a run at a chosen instant: killed, without power, or with a full disk."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from autoround.export.spool import Spool
from autoround.resume import records
from autoround.session import activations as streams

#: Everything that changes the disk, by where it is looked up.
CALLS: tuple[tuple[Any, str], ...] = (
    (os, "fsync"),
    (os, "replace"),
    (os, "posix_fallocate"),
    (shutil, "rmtree"),
    (shutil, "copyfile"),
    (Path, "write_text"),
    (Path, "mkdir"),
    (Path, "unlink"),
    (Spool, "add"),
    (Spool, "finish"),
    (streams.ActivationFiles, "write"),
    (records, "save_file"),
)
#: Calls that an error may come from on a full disk.
WRITING = ("fsync", "posix_fallocate", "write_text", "add", "finish", "write", "save_file")


@contextmanager
def counted(before: Callable[[int, str], None]) -> Iterator[list[str]]:
    """Call ``before`` with a number from 1 and a name before every change of the disk."""
    seen: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in CALLS:
            original = getattr(owner, name)

            def call(
                *args: Any, _original: Any = original, _name: str = name, **others: Any
            ) -> Any:
                seen.append(_name)
                before(len(seen), _name)
                return _original(*args, **others)

            patch.setattr(owner, name, call)
        yield seen


def count(work: Callable[[], object]) -> list[str]:
    """Run something to its end; return the changes of the disk it makes."""
    with counted(lambda number, name: None) as seen:
        work()
    return seen


def killed(work: Callable[[], object], *, at: int, lost: Path | None = None) -> bool:
    """Run something in a process that is killed before its ``at``-th change of the disk.

    lost: a folder in which files that were not synced are cut in half then, as without power.
    Returns False if it came to its end.
    """
    child = os.fork()
    if child == 0:
        # What is there by now has outlived the end before.
        there = [p.stat() for p in (lost.rglob("*") if lost is not None else ())]
        synced = {status.st_ino: status.st_mtime_ns for status in there}
        try:

            def stop(number: int, name: str) -> None:
                if number == at:
                    if lost is not None:
                        cut(lost, synced)
                    os.kill(os.getpid(), signal.SIGKILL)

            with noting(synced), counted(stop):
                work()
        except BaseException:  # whatever it is, this process may not go on
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.WEXITSTATUS(status) == 0, "the work failed by itself"
    return False


@contextmanager
def noting(synced: dict[int, int]) -> Iterator[None]:
    """Note which files are synced, by inode, and when they were changed last."""
    original = os.fsync

    def fsync(descriptor: int) -> None:
        original(descriptor)
        status = os.fstat(descriptor)
        synced[status.st_ino] = status.st_mtime_ns

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        yield


def cut(folder: Path, synced: dict[int, int]) -> None:
    """Cut files in half that were changed after they were synced."""
    for path in folder.rglob("*"):
        status = path.stat()
        if path.is_file() and synced.get(status.st_ino) != status.st_mtime_ns:
            os.truncate(path, status.st_size // 2)


@contextmanager
def full_disk(*, at: int) -> Iterator[None]:
    """Let the first call from the ``at``-th on that writes fail, and all that come after it."""

    def fail(number: int, name: str) -> None:
        if number >= at and name in WRITING:
            raise OSError(errno.ENOSPC, "No space left on device")

    with counted(fail):
        yield
