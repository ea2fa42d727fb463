"""Where finished blocks are kept while a run lasts, as the run sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from autoround.session.activations import ActivationFiles, ActivationStreams
from autoround.session.block_output import BlockOutput
from autoround.session.checkpoints import CheckpointPolicy, EveryBlock
from autoround.session.task_queue import Task
from autoround.types import BlockResult

#: What a unit is committed by where nothing else is asked for.
EVERY_BLOCK = EveryBlock()


class BlockStore(Protocol):
    """Finished units of one pass over the blocks, in order; implemented by the journal.

    done: how many units are finished.
    """

    done: int

    def begin_commit(
        self,
        output: BlockOutput,
        *,
        streams: ActivationStreams | None,
        names: Sequence[str],
        whole: bool = False,
        checkpoints: CheckpointPolicy = EVERY_BLOCK,
    ) -> Task:
        """Save the activation streams, if they are due; what is returned makes the unit finished.

        It touches the disk alone, and is called in the order of the units. A whole record holds
        unquantized tensors, too.
        """

    def read(self, index: int, kept: Mapping[str, Tensor], *, source: int | None) -> BlockOutput:
        """Return a finished unit; ``kept`` are its unquantized tensors."""

    def result(self, index: int) -> BlockResult:
        """Return the figures of a finished unit."""

    def files(
        self, shape: Sequence[int], dtype: torch.dtype, *, names: Sequence[str], fresh: int = 0
    ) -> ActivationFiles:
        """Return the files of the activation streams; the fresh one has a number of its own."""

    def streams(
        self, index: int, files: ActivationFiles, *, mask: Tensor | None, mapped: bool
    ) -> ActivationStreams:
        """Return the activation streams as the finished unit ``index`` left them."""

    def checkpoint(self, index: int) -> int | None:
        """Return the last unit up to ``index`` whose streams were kept; None where none were."""

    def keep_streams(self, index: int, streams: ActivationStreams, *, names: Sequence[str]) -> None:
        """Keep the streams that the finished unit ``index`` left, which its record lacks."""

    def save_state(
        self, name: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]
    ) -> None:
        """Keep the state of something that takes long, in place of an earlier one."""

    def load_state(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return the state that was kept last; None where there is none."""
