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
from autoround.session.loaded_block import in_kept_dtype, read_block
from autoround.session.session import Session
from autoround.storage.checksum import sum_of
from autoround.types import BlockPlan


class StoredBlock(NamedTuple):
    """A block's tensors as the model holds them.

    host: by the model's own names, on the CPU; unquantized ones in the dtype they are written in.
    by_param: the same by param; on the device if they were brought there ahead.
    source: checksum of what was read, 0 where no store asks for it.
    """

    host: dict[str, Tensor]
    by_param: Mapping[str, Tensor]
    source: int


class BlockPrefetcher:
    """Reads the blocks of a pass, one of them ahead of need where that is worth it."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._worth = session.runtime.own_memory and not session.tuning.low_memory
        self._reading: tuple[int, Future[tuple[dict[str, Tensor], int]]] | None = None
        self._upload: Upload | None = None

    def next(self, block: BlockPlan) -> StoredBlock:
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
        return StoredBlock(
            host, block.by_param(host) if upload is None else upload.result(), source
        )

    def prefetch(self, block: BlockPlan) -> None:
        """Start on the block after one that is being tuned, and bring it over once it is read.

        Comes after a step: while a step is captured, nothing else may ask the device for memory.
        """
        following = block.index + 1
        if not self._worth or following >= len(self._session.plan.blocks):
            return
        after = self._session.plan.blocks[following]
        if self._reading is None:
            executor = ThreadPoolExecutor(1)
            self._reading = following, executor.submit(self._read, after)
            executor.shutdown(wait=False)
            return
        reading = self._reading[1]
        # An error of the reading is raised where the block is needed.
        if self._upload is None and reading.done() and reading.exception() is None:
            self._upload = self._session.runtime.upload(after.by_param(reading.result()[0]))

    def _read(self, block: BlockPlan) -> tuple[dict[str, Tensor], int]:
        stored = read_block(self._session, block)
        source = 0 if self._session.store is None else sum_of(stored)
        return in_kept_dtype(self._session.plan, block, stored), source
