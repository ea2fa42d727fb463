"""Weights of a model on the hub, larger than the disk: a file is here only while it is needed."""

from __future__ import annotations

import glob
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import RLock

from torch import Tensor

from autoround.errors import ModelError
from autoround.model.files.hub import HubModel
from autoround.model.files.hub_source import remote_headers
from autoround.model.files.source import Headers, headers_of, read_tensors
from autoround.model.files.stored import SINGLE, weight_map
from autoround.storage.files import remove_file

#: Position of a run before its first block.
BEGINNING = -1
#: Blocks that the beginning lasts for: in the first one batches of other sizes are embedded, and
#: the next one may be read meanwhile.
FIRST_BLOCKS = 2


@dataclass(frozen=True)
class Span:
    """Positions of a run between which a file of weights is held.

    first, last: both included; the number of blocks stands for what follows them. outside: whether
    the file has tensors outside the blocks, which are read at the beginning and at the end, too.
    """

    first: int
    last: int
    outside: bool

    def covers(self, position: int, begun: int, blocks: int) -> bool:
        """Tell whether the file is needed.

        Args:
            position: Of the run.
            begun: The block that it began with.
            blocks: How many there are.
        """
        ends = position < begun + FIRST_BLOCKS or position == blocks
        return (self.outside and ends) or self.first <= position <= self.last


def span_of(of_blocks: Iterable[int], blocks: int, *, outside: bool) -> Span:
    """Return when a file is held, so that it is fetched once, or twice with tensors outside.

    Such a file waits twice: for its first block, and from its last one for the end. It is
    deleted for the longer of the two.

    Args:
        of_blocks: indices of the blocks that have tensors in it.
        blocks: how many the model has.
        outside: whether it has tensors outside the blocks.
    """
    indices = sorted(of_blocks)
    if not indices:
        return Span(blocks, blocks, outside)
    first, last = indices[0], indices[-1]
    if not outside:
        return Span(first, last, outside)
    if first > blocks - 1 - last:
        return Span(first, blocks, outside)
    return Span(BEGINNING, last, outside)


class StreamedSource:
    """A checkpoint on the hub whose files are fetched when one is read, and deleted after.

    Where a run stands is seen from what it reads: blocks in order, other tensors around them. Files
    that are in the cache before are read there, and stay.
    """

    def __init__(self, model: HubModel) -> None:
        self._model = model
        self._headers: Headers | None = None
        self._files: dict[str, str] = {}
        self._blocks_of: dict[str, set[int]] = {}
        self._spans: dict[str, Span] = {}
        self._count = 0
        self._position = BEGINNING
        self._begun = 0
        self._last_block: set[str] = set()
        self._fetched: list[str] = []
        self._lock = RLock()
        self._closed = False
        self._blobs = model.folder.parents[1] / "blobs"
        # Another revision may have the bytes of a file that this one lacks.
        self._blobs_before = {path.name for path in self._blobs.glob("*")}
        self._to_fetch = model.missing()

    def headers(self) -> Headers:
        """Return shape and dtype of every tensor, from the first bytes of the files.

        Raises:
            ModelError: The hub does not have or give a file, or its header is damaged.
        """
        if self._headers is None:
            self._headers = remote_headers(self._model)
            self._files = weight_map(self._model.folder) or dict.fromkeys(self._headers, SINGLE)
        return self._headers

    def assign(self, blocks: Sequence[Iterable[str]], *, outside: Iterable[str]) -> None:
        """Say which tensors belong to which block.

        Args:
            blocks: Names of each block's tensors, as the files have them, in the order of the run.
            outside: Names of tensors that are read before and after the blocks.
        """
        self.headers()
        self._count = len(blocks)
        self._last_block = set(blocks[-1])
        for index, names in enumerate(blocks):
            for name in names:
                self._blocks_of.setdefault(name, set()).add(index)
        around = {self._files[name] for name in outside}
        by_file: dict[str, set[int]] = {file: set() for file in around}
        for name, indices in self._blocks_of.items():
            by_file.setdefault(self._files[name], set()).update(indices)
        self._spans = {
            file: span_of(indices, self._count, outside=file in around)
            for file, indices in by_file.items()
        }

    def peak_bytes(self, *, ahead: bool) -> int:
        """Return the most bytes of fetched files that are held at once.

        Args:
            ahead: Whether a block is read while the one before is tuned.
        """
        sizes = dict.fromkeys(self._to_fetch, 0)
        for name, (shape, dtype) in self.headers().items():
            if self._files[name] in sizes:
                sizes[self._files[name]] += math.prod(shape) * dtype.itemsize
        return max(
            sum(
                size for file, size in sizes.items() if self._is_needed(file, position, ahead=ahead)
            )
            for position in range(BEGINNING, self._count + 1)
        )

    def _is_needed(self, file: str, position: int, *, ahead: bool = False) -> bool:
        span, begun, count = self._spans.get(file), self._begun, self._count
        if span is None:  # none of its tensors is in use
            return False
        # Nothing is read ahead of the first block, or after the last one.
        following = ahead and 0 <= position < count - 1 and span.covers(position + 1, begun, count)
        return span.covers(position, begun, count) or following

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Read tensors onto the CPU in their stored dtype, fetching their files.

        Raises:
            ModelError: The hub does not give them, a name or its data is missing, or the source is
                closed.
        """
        wanted = list(names)
        headers = self.headers()
        by_file: dict[str, list[str]] = {}
        for name in wanted:
            if name not in headers:
                raise ModelError(f"the checkpoint has no tensor {name!r}")
            by_file.setdefault(self._files[name], []).append(name)
        tensors: dict[str, Tensor] = {}
        # A block may be read ahead by another thread.
        with self._lock:
            if self._closed:
                raise ModelError(
                    f"{self._model.name}: the run has ended, and its files are deleted"
                )
            if wanted:
                self._advance(wanted)
            for file, some in by_file.items():
                self._fetch(file)
                tensors.update(read_tensors(self._model.folder / file, some))
        return {name: tensors[name] for name in wanted}

    def close(self) -> None:
        """Delete what was fetched and is still here.

        Raises:
            ModelError: The cache cannot be written to.
        """
        with self._lock:
            # A block that another thread is in the middle of would bring its file back.
            self._closed = True
            for file in list(self._fetched):
                self._delete(file)

    def _advance(self, names: Sequence[str]) -> None:
        """Move to where names are read, and delete the files that are not needed from there on."""
        blocks = {index for name in names for index in self._blocks_of.get(name, ())}
        if blocks:
            following = min((x for x in blocks if x >= self._position), default=self._position)
            if self._position == BEGINNING:
                self._begun = following
            self._position = following
            self._last_block.difference_update(names)
        elif self._position == self._count - 1 and not self._last_block:
            self._position = self._count
        for file in list(self._fetched):
            if not self._is_needed(file, self._position):
                self._delete(file)

    def _fetch(self, file: str) -> None:
        path = self._model.folder / file
        if path.is_file():
            return
        # Before the fetch: one that is cut short at its end leaves the file.
        if file in self._to_fetch and file not in self._fetched:
            self._fetched.append(file)
        self._model.fetch([file])
        planned, actual = self.headers(), headers_of([path])
        names = (name for name, other in self._files.items() if other == file)
        if any(actual.get(name) != planned[name] for name in names):
            raise ModelError(f"{self._model.name}: the files fetched are not those planned for")

    def _delete(self, file: str) -> None:
        """Delete a file from the cache, and its bytes where no other revision has them."""
        path = self._model.folder / file
        blob = Path(path.resolve())
        try:
            remove_file(path)
            others = self._model.folder.parent.glob(f"*/{glob.escape(file)}")
            if (
                blob.parent == self._blobs.resolve()
                and blob.name not in self._blobs_before
                and all(other.resolve() != blob for other in others)
            ):
                remove_file(blob)
        except OSError as error:
            raise ModelError(f"{path} cannot be deleted: {error}") from error
        self._fetched.remove(file)
