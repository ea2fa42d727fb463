"""The weights of a block, read and brought to the device while the one before is tuned.

For devices that have memory of their own: there the disk and the link to the device would otherwise
stand still while a block is tuned, and the device while the next one is read. On a CPU reading
ahead would only take memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from torch import Tensor

from autoround.device.protocol import Upload
from autoround.session.session import Session, by_param, with_kept_dtypes
from autoround.storage.checksum import sum_of
from autoround.types import BlockPlan


class BlockWeights(NamedTuple):
    """A block's tensors.

    host: by the model's own names, kept ones in the dtype they are written in. placed: by their
    names inside the block; on the device if they were brought there ahead, else those of the host.
    source: sum of what was read, 0 where no journal asks for it.
    """

    host: dict[str, Tensor]
    placed: Mapping[str, Tensor]
    source: int


class BlockPrefetcher:
    """Reads the blocks of a job, one of them ahead of need where that is worth it."""

    def __init__(self, job: Session) -> None:
        self._job = job
        self._worth = job.runtime.own_memory and not job.recipe.tuning.low_memory
        self._reading: tuple[int, Future[tuple[dict[str, Tensor], int]]] | None = None
        self._upload: Upload | None = None

    def take(self, block: BlockPlan) -> BlockWeights:
        """Return the tensors of a block; waits for what is on its way.

        Raises:
            ModelError: they cannot be read.
        """
        reading, upload = self._reading, self._upload
        self._reading = self._upload = None
        if reading is not None and reading[0] == block.index:
            host, source = reading[1].result()
        else:
            host, source = self._read(block)
            upload = None
        placed = by_param(block, host) if upload is None else upload.result()
        return BlockWeights(host, placed, source)

    def go_on(self, block: BlockPlan) -> None:
        """Start on the block after one that is being tuned, and bring it over once it is read.

        Comes after a step: while a step is recorded, nothing else may ask the device for memory.
        """
        following = block.index + 1
        if not self._worth or following >= len(self._job.plan.blocks):
            return
        after = self._job.plan.blocks[following]
        if self._reading is None:
            executor = ThreadPoolExecutor(1)
            self._reading = following, executor.submit(self._read, after)
            executor.shutdown(wait=False)
            return
        reading = self._reading[1]
        # A mistake of the reading is met where the block is needed.
        if self._upload is None and reading.done() and reading.exception() is None:
            self._upload = self._job.runtime.upload(by_param(after, reading.result()[0]))

    def _read(self, block: BlockPlan) -> tuple[dict[str, Tensor], int]:
        stored = self._job.skeleton.read(self._job.skeleton.names_under(block.name))
        source = 0 if self._job.journal is None else sum_of(stored)
        return with_kept_dtypes(self._job, block, stored), source
