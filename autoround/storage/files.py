"""Everything that changes the disk: the one place where files are written, renamed and deleted.

Because all of it is here, each single change can be made to fail, and what becomes of a run then
can be looked at. Functions raise OSError, as the system does; those of
:mod:`autoround.storage.durable` put several of them together.
"""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

#: Bytes copied at a time.
CHUNK = 16 << 20
_READ_WRITE = os.O_RDWR | getattr(os, "O_BINARY", 0)


class WritableFile:
    """A file that is open to be written; nothing waits in a buffer of this process.

    Args:
        path: the file, which is made where it is not there, and emptied.
        keep: whether it must be there, and what it holds stays.
        append: whether what it holds stays, and all is written behind that.
    """

    def __init__(self, path: Path, *, keep: bool = False, append: bool = False) -> None:
        flags = _READ_WRITE if keep else _READ_WRITE | os.O_CREAT | os.O_TRUNC
        if append:
            flags = _READ_WRITE | os.O_CREAT | os.O_APPEND
        self._descriptor: int | None = os.open(path, flags, 0o666)

    def __enter__(self) -> WritableFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def fileno(self) -> int:
        """Return the descriptor."""
        if self._descriptor is None:
            raise ValueError("the file is closed")
        return self._descriptor

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write all of some bytes, however many calls of the system that takes."""
        rest = memoryview(data).cast("B")
        while rest:
            written = os.write(self.fileno(), rest)
            if not written:
                raise OSError(errno.EIO, "nothing was written")
            rest = rest[written:]

    def write_at(self, data: bytes | bytearray | memoryview, start: int) -> None:
        """Write all of some bytes to a place of the file, which grows up to there if it must."""
        os.lseek(self.fileno(), start, os.SEEK_SET)
        self.write(data)

    def read_at(self, size: int, start: int) -> bytes:
        """Return bytes from a place of the file, which stays where it is."""
        return os.pread(self.fileno(), size, start)

    def sync(self) -> None:
        """Put what was written on the disk for good."""
        os.fsync(self.fileno())

    def close(self) -> None:
        """Close the file; once is enough."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def __del__(self) -> None:
        # A run that ended with an error may have left it open.
        if hasattr(self, "_descriptor"):
            with suppress(OSError):
                self.close()


def write_file(path: Path, data: str | bytes) -> None:
    """Write a file that nobody reads yet; text is UTF-8."""
    with WritableFile(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def write_by(path: Path, write: Callable[[Path], object]) -> None:
    """Let a library write a file, or files into a folder.

    Args:
        path: of the file or the folder.
        write: is given the path.
    """
    _call(write, path)


def _call(write: Callable[[Path], object], path: Path) -> None:
    write(path)


def copy_file(source: Path, target: Path) -> None:
    """Copy what a file holds."""
    with source.open("rb") as read, WritableFile(target) as written:
        while piece := read.read(CHUNK):
            written.write(piece)


def reserve(path: Path, size: int) -> None:
    """Give a file its size, made where it is not there, with blocks on the disk where possible."""
    descriptor = os.open(path, _READ_WRITE | os.O_CREAT, 0o666)
    try:
        if os.fstat(descriptor).st_size == size:
            return
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, size)
        else:
            os.truncate(descriptor, size)
    finally:
        os.close(descriptor)


def map_file(path: Path, size: int) -> mmap.mmap:
    """Map a file that has its size, to be written to."""
    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), size)


def open_to_lock(path: Path) -> int:
    """Open a folder that is there, or a file, which is made if it is not.

    Returns:
        The descriptor.
    """
    if path.is_dir():
        return os.open(path, os.O_RDONLY)
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)


def replace(source: Path, target: Path) -> None:
    """Rename a file or folder, over a file or an empty folder that is there."""
    os.replace(source, target)


def link(source: Path, target: Path) -> None:
    """Make a symbolic link to a file."""
    os.symlink(source, target)


def sync_path(path: Path) -> None:
    """Make a file or a folder's entries survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path, *, new: bool = False, mode: int = 0o777) -> None:
    """Make a folder, and those above it, where they are not there.

    Args:
        path: of the folder.
        new: whether it must not be there yet.
        mode: of the folder, less what the process's mask takes.
    """
    if not new and path.is_dir():
        return
    if not path.parent.is_dir():
        make_folder(path.parent)
    try:
        os.mkdir(path, mode)
    except FileExistsError:
        if new or not path.is_dir():
            raise


@contextmanager
def temporary_folder(parent: Path | None, prefix: str) -> Iterator[Path]:
    """Make a folder of a name that nobody else has, and delete it at the end.

    Args:
        parent: where; None for the system's folder of such.
        prefix: how its name begins.
    """
    above = Path(tempfile.gettempdir()) if parent is None else parent
    folder = above / f"{prefix}{uuid.uuid4().hex[:12]}"
    make_folder(folder, new=True, mode=0o700)
    try:
        yield folder
    finally:
        remove_tree(folder)


def remove_file(path: Path) -> None:
    """Delete a file, where it is there."""
    with suppress(FileNotFoundError):
        os.unlink(path)


def remove_folder(path: Path) -> None:
    """Delete an empty folder."""
    os.rmdir(path)


def remove_tree(path: Path) -> None:
    """Delete a folder and all in it, as far as that is possible."""
    shutil.rmtree(path, ignore_errors=True)
