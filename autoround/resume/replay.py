"""Finished blocks, read again: from the store, and from the model what stays unquantized."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

from autoround.session.block_output import BlockOutput
from autoround.session.loaded_block import in_kept_dtype
from autoround.session.session import Session
from autoround.storage.checksum import sum_of


def replay_block(session: Session, index: int, *, check: bool = True) -> BlockOutput:
    """Return a finished block.

    Args:
        session: the pass; it has a store.
        index: of the block.
        check: whether the model's weights are compared with those the block was made of.

    Raises:
        OutputError: its record is damaged, or the model is another by now.
    """
    assert session.store is not None
    if session.skeleton.stream is not None:
        # The record is whole, and the commit says that the model is the same.
        return session.store.read(index, {}, source=None)
    block = session.plan.blocks[index]
    replaced = block.quantized_tensors
    names = session.skeleton.names_under(block.name)
    stored = session.skeleton.read(n for n in names if check or n not in replaced)
    kept = {
        name: tensor
        for name, tensor in in_kept_dtype(session.plan, block, stored).items()
        if name not in replaced
    }
    return session.store.read(index, kept, source=sum_of(stored) if check else None)


class ReplayedBlocks(Sequence[BlockOutput]):
    """All blocks of a pass, each read when it is asked for; checked the first time."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._checked: set[int] = set()

    def __len__(self) -> int:
        return len(self._session.plan.blocks)

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
        output = replay_block(self._session, index, check=index not in self._checked)
        self._checked.add(index)
        return output
