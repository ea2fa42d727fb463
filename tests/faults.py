"""Ends of a run at a chosen change of the disk: killed, without power, or refused by the system.

All changes go through ``autoround.storage.files``, which knows the system by its modules ``os`` and
``shutil``: stand-ins for these see every one.
"""

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

from autoround.storage import files

#: Calls that change the disk. ``open`` is one where it makes a file; ``library`` is what a library
#: writes by itself.
CALLS = (
    *("open", "write", "fsync", "replace", "mkdir", "symlink", "unlink", "rmdir"),
    *("posix_fallocate", "rmtree", "library"),
)
#: Calls that take room.
WRITING = ("open", "write", "fsync", "mkdir", "posix_fallocate", "library")

#: What a change of the disk does: it is given the call's number from 1, its name, the call itself
#: and its arguments, and returns what the call does.
Act = Callable[[int, str, Callable[..., Any], tuple[Any, ...]], Any]


class _StandIn:
    """A module of the system, whose calls that change the disk go through a function."""

    def __init__(self, module: Any, through: Callable[[str, Callable[..., Any], Any, Any], Any]):
        self._module, self._through = module, through

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._module, name)
        if name not in CALLS:
            return real
        return lambda *args, **named: self._through(name, real, args, named)


@contextmanager
def acting(act: Act) -> Iterator[list[str]]:
    """Let a function do every change of the disk; yields the names of those so far."""
    seen: list[str] = []

    def through(name: str, real: Callable[..., Any], args: Any, named: Any) -> Any:
        if name == "open" and not args[1] & os.O_CREAT:
            return real(*args, **named)
        seen.append(name)
        return act(len(seen), name, lambda *given: real(*given, **named), args)

    def library(write: Callable[[Path], object], path: Path) -> None:
        through("library", write, (path,), {})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "os", _StandIn(os, through))
        patch.setattr(files, "shutil", _StandIn(shutil, through))
        patch.setattr(files, "_call", library)
        yield seen


@contextmanager
def counted(before: Callable[[int, str], None]) -> Iterator[list[str]]:
    """Call ``before`` with a number from 1 and a name before every change of the disk."""

    def act(number: int, name: str, call: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        before(number, name)
        return call(*args)

    with acting(act) as seen:
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


def halve(path: Path) -> None:
    """Cut what a library wrote in half: a file, or the last one of a folder."""
    written = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    if written and written[-1].is_file():
        os.truncate(written[-1], written[-1].stat().st_size // 2)


class Fault:
    """A disk that fails at one change of it.

    kind: of KINDS. at: the change, from 1. met: whether it came to that.
    """

    #: The error, the calls it may come from (None: all), and whether it stays from then on.
    KINDS: dict[str, tuple[int, tuple[str, ...] | None, bool]] = {  # noqa: RUF012
        "full": (errno.ENOSPC, WRITING, True),
        "failing": (errno.EIO, None, False),
        "read-only": (errno.EROFS, None, True),
        "short": (errno.ENOSPC, ("write", "library"), False),
        "rename": (errno.EACCES, ("replace",), False),
        "sync": (errno.EIO, ("fsync",), True),
    }

    def __init__(self, kind: str, at: int) -> None:
        self._kind, self._at, self.met = kind, at, False
        self._error, self._calls, self._stays = self.KINDS[kind]
        self._short = 0

    @classmethod
    def places(cls, kind: str, calls: list[str]) -> list[int]:
        """Return the changes, from 1, that a kind of fault can come from."""
        names = cls.KINDS[kind][1]
        return [n for n, call in enumerate(calls, start=1) if names is None or call in names]

    def act(self, number: int, name: str, call: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Do a change of the disk, or fail."""
        fits = self._calls is None or name in self._calls
        due = number >= self._at if self._stays else number == self._at
        if self._kind == "short" and self._short == number - 1 and self._short:
            raise OSError(self._error, os.strerror(self._error))
        if not (fits and due):
            return call(*args)
        self.met = True
        if name == "rmtree":
            # Deleting takes no error that this program could see.
            return None
        if self._kind == "short" and name == "write":
            self._short = number
            return call(args[0], args[1][: max(1, len(args[1]) // 2)])
        if self._kind == "short":
            call(*args)
            halve(args[0])
        raise OSError(self._error, os.strerror(self._error))


@contextmanager
def faulty_disk(kind: str, *, at: int) -> Iterator[Fault]:
    """Let the ``at``-th change of the disk fail; yields the fault."""
    fault = Fault(kind, at)
    with acting(fault.act):
        yield fault


@contextmanager
def full_disk(*, at: int) -> Iterator[None]:
    """Let the first call from the ``at``-th on that writes fail, and all that come after it."""
    with faulty_disk("full", at=at):
        yield
