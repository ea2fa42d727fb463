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

from autoround.core.rtn import largest_magnitude
from autoround.device.protocol import Upload
from autoround.session.loaded_block import in_kept_dtype, read_block
from autoround.session.session import Session
from autoround.storage.checksum import sum_of
from autoround.types import BlockPlan


class StoredBlock(NamedTuple):
    """A block's tensors as the model holds them.

    host: by the model's own names, on the CPU; unquantized ones in the dtype they are written in.
    by_param: the same by param; on the device if they were brought there ahead.
    largest: greatest magnitude of each weight that gets a scheme, by param; NaN where it holds one.
    source: checksum of what was read, 0 where no store asks for it.
    """

    host: dict[str, Tensor]
    by_param: Mapping[str, Tensor]
    largest: Mapping[str, float]
    source: int


class _Read(NamedTuple):
    """What is told of a block by reading it; fields as of :class:`StoredBlock`."""

    host: dict[str, Tensor]
    largest: Mapping[str, float]
    source: int


class BlockPrefetcher:
    """Reads the blocks of a pass, one of them ahead of need where that is worth it."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._worth = session.runtime.own_memory and not session.tuning.low_memory
        self._reading: tuple[int, Future[_Read]] | None = None
        self._upload: Upload | None = None

    def next(self, block: BlockPlan) -> StoredBlock:
        """Return the tensors of a block; waits for what is on its way.

        Raises:
            ModelError: they cannot be read.
        """
        reading, upload = self._reading, self._upload
        self._reading = self._upload = None
        if reading is not None and reading[0] == block.index:
            stored = reading[1].result()
        else:
            stored, upload = self._read(block), None
        if upload is None and self._worth:
            # Once for all that needs them, and without a wait for each.
            upload = self._session.runtime.upload(block.by_param(stored.host))
        by_param = block.by_param(stored.host) if upload is None else upload.result()
        return StoredBlock(stored.host, by_param, stored.largest, stored.source)

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
            self._upload = self._session.runtime.upload(after.by_param(reading.result().host))

    def stop(self) -> None:
        """Read and bring over nothing ahead any more; what is on the device already is dropped."""
        self._worth, self._upload = False, None

    def _read(self, block: BlockPlan) -> _Read:
        stored = read_block(self._session, block)
        source = 0 if self._session.store is None else sum_of(stored)
        return _Read(
            in_kept_dtype(self._session.plan, block, stored), _largest(block, stored), source
        )


def _largest(block: BlockPlan, stored: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the greatest magnitude of each weight that gets a scheme, by param."""
    # Asked of the host's copy, beside the work of the device, which nothing then has to wait for.
    by_param = block.by_param(stored)
    return {layer.param: largest_magnitude(by_param[layer.param]) for layer in block.quantized}
