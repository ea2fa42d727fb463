"""Finished blocks, read again: from the journal, and from the model what it keeps as it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

from autoround.session.session import BlockOutput, Session, with_kept_dtypes
from autoround.storage.checksum import sum_of


def finished_blocks(job: Session) -> int:
    """Return how many blocks of a pass are done."""
    return 0 if job.journal is None else min(job.journal.done, len(job.plan.blocks))


def replay_block(job: Session, index: int, *, check: bool = True) -> BlockOutput:
    """Return a finished block.

    check: whether the model's weights are compared with those it was made of.

    Raises:
        OutputError: its record is damaged, or the model is another by now.
    """
    assert job.journal is not None
    block = job.plan.blocks[index]
    replaced = {layer.tensor for layer in block.quantized}
    names = job.skeleton.names_under(block.name)
    stored = job.skeleton.read(n for n in names if check or n not in replaced)
    kept = {n: t for n, t in with_kept_dtypes(job, block, stored).items() if n not in replaced}
    return job.journal.read(index, kept, source=sum_of(stored) if check else None)


class ReplayedBlocks(Sequence[BlockOutput]):
    """All blocks of a pass, each read when it is asked for; checked the first time."""

    def __init__(self, job: Session) -> None:
        self._job = job
        self._checked: set[int] = set()

    def __len__(self) -> int:
        return len(self._job.plan.blocks)

    @overload
    def __getitem__(self, index: int) -> BlockOutput: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[BlockOutput]: ...
    def __getitem__(self, index: int | slice) -> BlockOutput | Sequence[BlockOutput]:
        """Read a block, or some of them."""
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        output = replay_block(self._job, index, check=index not in self._checked)
        self._checked.add(index)
        return output
