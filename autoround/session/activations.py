"""The activation streams: in memory, or in files that are mapped into it.

Each stream has two files. The even one holds the inputs of blocks 0, 2, 4 …, the odd one those of
the others: while a block is tuned, its inputs stay on the disk as they are. Files get their whole
size when they are made, so that a full disk is met before any work and never through a mapping,
where it would end the process with a signal.
"""

from __future__ import annotations

import contextlib
import math
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from autoround.errors import OutputError
from autoround.settings import FRESH, FULL
from autoround.storage.checksum import CHUNK, raw_bytes
from autoround.storage.durable import make_synced
from autoround.storage.files import (
    WritableFile,
    map_file,
    remove_file,
    remove_folder,
    reserve,
    sync_path,
)


class ActivationFiles:
    """The files of activation streams, two for each name.

    Args:
        folder: where they are.
        shape: [n, seq, hidden] of each stream.
        dtype: of its elements.
        names: of the streams.
        fresh: samples of the stream FRESH.
    """

    def __init__(
        self,
        folder: Path,
        shape: Sequence[int],
        dtype: torch.dtype,
        names: Sequence[str],
        *,
        fresh: int = 0,
    ) -> None:
        self.names = tuple(names)
        self._folder, self._dtype = folder, dtype
        self._shapes = {name: tuple(shape) for name in self.names}
        if FRESH in self._shapes:
            self._shapes[FRESH] = (fresh, *shape[1:])
        self._mapped: dict[Path, tuple[mmap.mmap, Tensor]] = {}

    def _size(self, name: str) -> int:
        """Return the bytes of a stream."""
        return math.prod(self._shapes[name]) * self._dtype.itemsize

    def allocate(self) -> None:
        """Make the files that are not there, at their whole size.

        Raises:
            OutputError: the disk has no room for them.
        """
        try:
            make_synced(self._folder)
            for name in self.names:
                for generation in (0, 1):
                    reserve(self._path(name, generation), self._size(name))
            # What is written to them later is synced by itself; their names are synced here.
            sync_path(self._folder)
        except OSError as error:
            needed = 2 * sum(map(self._size, self.names))
            raise OutputError(
                f"streams of activations need {needed / 1e9:.1f} GB in "
                f"{self._folder}: {error}; name another folder with --work-dir"
            ) from error

    def _paths(self) -> list[Path]:
        return [self._path(name, number) for name in self.names for number in (0, 1)]

    def _path(self, name: str, generation: int) -> Path:
        return self._folder / f"{name}-{generation % 2}"

    def mapped(self, name: str, generation: int) -> Tensor:
        """Return a stream as it is in its file; what is written to it goes there."""
        path = self._path(name, generation)
        if path not in self._mapped:
            try:
                view = map_file(path, self._size(name))
            except (OSError, ValueError) as error:
                raise OutputError(f"{path} cannot be used: {error}") from error
            tensor = torch.frombuffer(view, dtype=self._dtype).reshape(self._shapes[name])
            self._mapped[path] = view, tensor
        return self._mapped[path][1]

    def write(self, name: str, generation: int, stream: Tensor) -> None:
        """Write a stream that is in memory, without mapping it."""
        path = self._path(name, generation)
        try:
            with WritableFile(path, keep=True) as file:
                file.write(raw_bytes(stream))
        except OSError as error:
            raise OutputError(f"{path} cannot be written: {error}") from error

    def sync(self, name: str, generation: int) -> int:
        """Put a stream on the disk for good; returns its sum."""
        path = self._path(name, generation)
        try:
            if path in self._mapped:
                self._mapped[path][0].flush()
            sync_path(path)
        except OSError as error:
            raise OutputError(f"{path} cannot be written: {error}") from error
        return self._sum(path)

    def read(self, name: str, generation: int, *, total: int) -> Tensor:
        """Read a stream into memory and check it.

        Raises:
            OutputError: the file is missing, or holds something else.
        """
        self.check(name, generation, total=total)
        stream = torch.empty(self._shapes[name], dtype=self._dtype)
        with self._path(name, generation).open("rb") as file:
            file.readinto(raw_bytes(stream))
        return stream

    def check(self, name: str, generation: int, *, total: int) -> None:
        """Check a stream by its sum.

        Raises:
            OutputError: the file is missing, or holds something else.
        """
        path = self._path(name, generation)
        size = self._size(name)
        if not path.is_file() or path.stat().st_size != size or self._sum(path) != total:
            raise OutputError(
                f"{path} is not what the last finished block left there; begin again with --restart"
            )

    def _sum(self, path: Path) -> int:
        """Add up a file's words: enough to tell a page that never reached the disk."""
        total = 0
        with path.open("rb") as file:
            while piece := file.read(CHUNK):
                whole = len(piece) // 8 * 8
                words = torch.frombuffer(bytearray(piece), dtype=torch.uint8)
                total += int(words[:whole].view(torch.int64).sum())
                total += int(words[whole:].sum(dtype=torch.int64))
        return total % 2**63

    def release_pages(self) -> None:
        """Give back the memory that mapped files hold; they stay as they are."""
        advice = getattr(mmap, "MADV_DONTNEED", None)
        if advice is not None:
            for view, _ in self._mapped.values():
                view.madvise(advice)

    def remove(self) -> None:
        """Delete the files."""
        self._mapped.clear()
        for path in self._paths():
            remove_file(path)
        with contextlib.suppress(OSError):
            remove_folder(self._folder)


@dataclass
class ActivationStreams:
    """Inputs of the next block: of the full-precision model and of the quantized one.

    fresh: of the full-precision model, [m, seq, hidden] of the samples that end-to-end tuning alone
    reads, on the CPU; None where there are none.

    full, quantized: [n, seq, hidden] in the compute dtype, on the CPU unless they fit the device.
    mask: bool [n, seq], True where a token is real; None when all are.
    files: where they are kept between blocks, if they are; mapped: whether they live there.
    generation: how often they were saved; the files of a stream are used in turn.
    blocks: how many blocks they had gone through when they were made or read.
    """

    full: Tensor
    quantized: Tensor
    mask: Tensor | None
    files: ActivationFiles | None = None
    mapped: bool = False
    generation: int = 0
    blocks: int = 0
    fresh: Tensor | None = None

    @property
    def teacher(self) -> Tensor:
        """The full-precision stream that end-to-end tuning matches in the end."""
        return self.full if self.fresh is None else self.fresh

    def first_row(self, name: str) -> int:
        """Return the number of a stream's first sample: fresh ones come after the others."""
        return len(self.full) if name == FRESH else 0

    def on(self, device: torch.device) -> ActivationStreams:
        """Move the streams of the calibration to a device."""
        self.full, self.quantized = self.full.to(device), self.quantized.to(device)
        return self

    def restart_quantized(self) -> None:
        """Let the quantized stream go on from the full-precision one."""
        if self.mapped:
            # The inputs of this block stay as they are until the block is done.
            self.quantized = self.full
        else:
            self.quantized.copy_(self.full)

    def inputs(self, name: str) -> Tensor:
        """Return a stream, FULL, QUANTIZED or FRESH, as this block reads it."""
        if name == FRESH:
            assert self.fresh is not None
            return self.fresh
        return self.full if name == FULL else self.quantized

    def outputs(self, name: str) -> Tensor:
        """Return where the outputs of this block are to be written: in memory, over its inputs."""
        if self.mapped and self.files is not None:
            return self.files.mapped(name, self.generation + 1)
        return self.inputs(name)

    def advance(self, name: str, outputs: Tensor) -> None:
        """Make a block's outputs the inputs of the next one."""
        if name == FULL:
            self.full = outputs
        elif name == FRESH:
            self.fresh = outputs
        else:
            self.quantized = outputs

    def save(self, names: Sequence[str]) -> dict[str, int]:
        """Put the streams on the disk as inputs of the next block.

        Args:
            names: those that go on from here.

        Returns:
            Their checksums by name.

        Raises:
            OutputError: the disk is full, or cannot be written to.
        """
        self.generation += 1
        sums = {}
        for name in names if self.files is not None else ():
            assert self.files is not None
            if not self.mapped:
                self.files.write(name, self.generation, self.inputs(name))
            sums[name] = self.files.sync(name, self.generation)
        self.release_pages()
        return sums

    def release_pages(self) -> None:
        """Give back the memory of mapped streams, which would count as this process's own."""
        if self.files is not None:
            self.files.release_pages()
