"""A recorded step that serves the next blocks of its kind, with their numbers in its tensors.

What makes two blocks of a kind is said by whoever knows modules; that the recording does the next
block's step, too, is checked by doing that step itself once.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from autoround.core.reconstruction import Step
from autoround.core.rounding import Rounding

#: Relative size of a difference between a step and a recording of it: sums in another order.
CLOSE = 1e-2


class KeptStep(NamedTuple):
    """A recorded step, and what it reads.

    kind: of blocks it serves. copied: tensors that take the numbers of another block, by name.
    shared: tensors that all blocks of the kind read where they are. iterate: roundings that it
    moves, by target; their parts are among the copied tensors. step: plays the recording.
    """

    kind: Hashable
    copied: Mapping[str, Tensor]
    shared: Mapping[str, Tensor]
    iterate: Mapping[str, Rounding]
    step: Step

    def serves(self, other: KeptStep) -> bool:
        """Tell whether the recording can do another block's step, by all that is known of both.

        Args:
            other: that block, with what its step reads.
        """
        return (
            self.kind == other.kind
            and _looks(self.copied) == _looks(other.copied)
            and all(_can_be_written(tensor) for tensor in self.copied.values())
            and self.shared.keys() == other.shared.keys()
            and all(_same_memory(self.shared[name], other.shared[name]) for name in self.shared)
        )

    @torch.no_grad()
    def take(self, other: KeptStep) -> None:
        """Copy another block's numbers to where the recording reads.

        Args:
            other: a block that it serves.
        """
        for name, tensor in self.copied.items():
            tensor.copy_(other.copied[name])


class StepRecordings:
    """The recording of the last kind of block, if there is one."""

    def __init__(self) -> None:
        self._kept: KeptStep | None = None

    def find(self, block: KeptStep) -> KeptStep | None:
        """Return a recording that serves a block; one that does not is given up.

        Args:
            block: with what its step reads.
        """
        if self._kept is not None and not self._kept.serves(block):
            # Its memory is needed for the one that comes.
            self.clear()
        return self._kept

    def keep(self, kept: KeptStep) -> None:
        """Keep a recording in place of the last one."""
        self._kept = kept

    def clear(self) -> None:
        """Give up the recording and its memory."""
        self._kept = None


def agree(played: Sequence[Tensor], exact: Sequence[Tensor]) -> bool:
    """Tell whether a recording's results are those of a step; the host waits once.

    Args:
        played: the recording's. exact: the step's own, of the same shapes.
    """
    verdicts = []
    for result, wanted in zip(played, exact, strict=True):
        # In place: gradients of a layer's experts are gigabytes.
        apart = (result.float() - wanted.float()).abs_().sum()
        verdicts.append(apart <= CLOSE * wanted.float().abs().sum())
    return bool(torch.stack(verdicts).all())


def _looks(tensors: Mapping[str, Tensor]) -> list[tuple[object, ...]]:
    return [(n, tuple(t.shape), t.stride(), t.dtype, t.device) for n, t in tensors.items()]


def _can_be_written(tensor: Tensor) -> bool:
    """Tell whether every element has a place of its own, which an expanded one's have not."""
    return all(
        step != 0 or size <= 1 for step, size in zip(tensor.stride(), tensor.shape, strict=True)
    )


def _same_memory(first: Tensor, second: Tensor) -> bool:
    if first is second:
        return True
    return first.data_ptr() == second.data_ptr() != 0 and _looks({"": first}) == _looks(
        {"": second}
    )
