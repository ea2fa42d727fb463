"""What the pipeline hands finished blocks to: one writer for each format of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from torch import Tensor

from autoround.export.verify import ReadBackCheck
from autoround.model.skeleton import Skeleton
from autoround.session.block_output import BlockOutput


class OutputWriter(Protocol):
    """Writes one format; blocks come in order, then what lies outside them.

    Adding a block is packing it and writing that.

    check: runs a batch through the blocks as they are handed over, and once more through the files.
    """

    check: ReadBackCheck

    @property
    def staging(self) -> Path:
        """Where the files are until they are published."""

    def add(self, output: BlockOutput) -> None:
        """Write a finished block, or the quantized layers outside the blocks."""

    def pack(self, output: BlockOutput) -> list[Mapping[str, Tensor]]:
        """Do what a block needs of the device; returns what :meth:`write` is to write."""

    def write(self, tensors: Sequence[Mapping[str, Tensor]]) -> None:
        """Write what was packed of a block; may be called in another thread, in order."""

    def add_unquantized(self, tensors: Mapping[str, Tensor]) -> None:
        """Write tensors outside the blocks, by the model's own names."""

    def add_unmapped(self, tensors: Mapping[str, Tensor]) -> None:
        """Write tensors of the checkpoint that the model class does not know, or leave them out."""

    def add_text(self, name: str, text: str) -> None:
        """Write a small file beside the tensors."""

    def complete(self) -> None:
        """Complete the files, and hold them against what was handed over.

        Raises:
            VerificationError: they do not read back as the blocks were in memory.
        """

    def publish(self) -> int:
        """Move the complete folder into place; returns its bytes."""


def add_outside_blocks(skeleton: Skeleton, writers: Sequence[OutputWriter]) -> None:
    """Hand every writer the tensors that lie outside the blocks, one at a time.

    Args:
        skeleton: the model.
        writers: of all formats.
    """
    for name in skeleton.names_outside_blocks():
        tensors = skeleton.read([name])
        for writer in writers:
            writer.add_unquantized(tensors)
    for name in skeleton.unmapped:
        tensors = skeleton.source.read([name])
        for writer in writers:
            writer.add_unmapped(tensors)
