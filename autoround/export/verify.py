"""The last check of a run: one batch through the blocks as they can be read from the files.

While blocks are handed to the writers, a few tokens are run through them as they are in
memory. When the files are complete they are opened as a loader would, by their config;
every block is unpacked from them and the same tokens are run again. What comes out of
the last block must be the same but for the dtype of kept tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from autoround.core.loss import relative_square_error
from autoround.errors import ModelError, VerificationError
from autoround.formats.format import PackedLayer
from autoround.formats.gguf.tensors import dense
from autoround.formats.unpacking import UnpackingSource
from autoround.formats.written import written_layers
from autoround.model.convert import ConvertedSource
from autoround.model.files.locate import read_config
from autoround.model.files.source import CheckpointSource, WeightSource
from autoround.model.positions import text_config
from autoround.model.runner import BlockRunner
from autoround.model.skeleton import Skeleton
from autoround.model.stacked_experts import as_stored
from autoround.session.block_output import BlockOutput, weight_on
from autoround.types import BlockPlan, LayerPlan, Plan

CPU = torch.device("cpu")
#: Tokens of the batch.
TOKENS = 32
#: Largest squared difference of the outputs, relative to their mean square. Rounding kept
#: tensors to 16 bits stays below 1e-5; a zero point off by one is above 0.1.
TOLERANCE = 1e-3


class WrittenModel(Protocol):
    """A written output, opened again."""

    def block(self, block: BlockPlan, names: Sequence[str]) -> dict[str, Tensor]:
        """Return the tensors of a block by the model's own names, weights unpacked."""


class ReadBackCheck:
    """A batch of a few tokens on its way through the blocks of a model, in float32.

    Args:
        skeleton: the model.
        plan: of the pass that is checked.
        ids: int64 [n, seq] calibration tokens, of which some are taken; None draws random ones.
        device: that the blocks are run on.
    """

    def __init__(
        self,
        skeleton: Skeleton,
        plan: Plan,
        *,
        ids: Tensor | None,
        device: torch.device = CPU,
    ) -> None:
        self._skeleton, self._plan, self._device = skeleton, plan, device
        self._runner = BlockRunner(skeleton, device=device, dtype=torch.float32)
        if ids is None:
            generator = torch.Generator().manual_seed(0)
            ids = torch.randint(0, _vocabulary(skeleton), (1, TOKENS), generator=generator)
        ids, first = ids[:1, :TOKENS], None
        # Blocks that need the tokens themselves cannot be run by themselves, either.
        with suppress(ModelError):
            if not plan.why_not_by_block:
                self._runner.prepare(ids)
                first = self._runner.embed(ids)
        self._runner.release()
        self.ids = ids
        self._first = first  # [1, seq, hidden]
        self.read_back: Tensor | None = None  # [1, seq, hidden], once files were compared
        self.hidden = first

    @property
    def first(self) -> Tensor | None:
        """Input of the first block [1, seq, hidden], on the CPU; None where none runs alone."""
        return None if self._first is None else self._first.to(CPU)

    @property
    def description(self) -> str:
        """What is run, in words."""
        tokens = 0 if self._first is None else self._first.shape[1]
        return f"a batch of {tokens} tokens" if tokens else "no batch (blocks do not run alone)"

    def add(self, output: BlockOutput, kept: Mapping[str, Tensor]) -> None:
        """Run the batch through a finished block as it is in memory.

        Args:
            output: the block; a unit outside the blocks is passed over.
            kept: its unquantized tensors as the output holds them, by the model's own names.
        """
        index = output.result.index
        if self.hidden is None or index >= len(self._plan.blocks):
            return
        block = self._plan.blocks[index]
        layers = {n: weight_on(layer, self._device) for n, layer in output.layers.items()}
        weights = {name: dense(layer) for name, layer in layers.items()}
        tensors = {**block.by_param(kept), **as_stored(block, weights)}
        self._run_block(block, tensors)

    def _run_block(self, block: BlockPlan, tensors: Mapping[str, Tensor]) -> None:
        """Run the batch through a block; tensors by param."""
        if self.hidden is None:
            return
        placed = self._runner.place(tensors) | self._runner.buffers(block.index)
        with torch.no_grad():
            rows = torch.arange(len(self.hidden))
            self.hidden = self._runner.run(block.index, placed, hidden=self.hidden, rows=rows)

    def compare(self, written: WrittenModel, what: str) -> float | None:
        """Run the batch through the blocks as they are read back.

        Args:
            written: the output, opened again.
            what: names it in messages.

        Returns:
            The relative squared difference of the last block's outputs; None where blocks cannot
            be run by themselves.

        Raises:
            VerificationError: the outputs differ.
        """
        if self.hidden is None or self._first is None:
            return None
        expected, self.hidden = self.hidden, self._first
        for block in self._plan.blocks:
            names = self._skeleton.names_under(block.name)
            self._run_block(block, block.by_param(written.block(block, names)))
        got, self.hidden = self.hidden, expected
        self.read_back = got.to(CPU)
        error = relative_square_error(got, expected)
        # Not `>`: NaN is an error as well.
        if not error <= TOLERANCE:
            raise VerificationError(
                f"{what}: read back, the last block's output is {error:.2e} of its size away from "
                f"that of the codes in memory (allowed: {TOLERANCE:.0e}); the files are not used"
            )
        return error


def _vocabulary(skeleton: Skeleton) -> int:
    return int(getattr(text_config(skeleton.model), "vocab_size", 0) or 256)


class WrittenCheckpoint:
    """A folder of safetensors files, read by what its config says."""

    def __init__(self, folder: Path, plan: Plan, skeleton: Skeleton) -> None:
        """Open a folder; no weight is read.

        Raises:
            VerificationError: its config calls other layers quantized than the plan.
        """
        files = CheckpointSource(folder)
        source: WeightSource = files
        quantization = read_config(folder).get("quantization_config")
        if quantization is not None:
            unpacking = UnpackingSource(files, quantization)
            _check_schemes(unpacking.layers, written_layers(plan.layers))
            unpacking.transposed = {
                one.name
                for layer in plan.layers
                if layer.transposed and not layer.experts
                for one in written_layers([layer])
                if one.name in unpacking.layers
            }
            source = unpacking
        self._source, self._tied = ConvertedSource(source, skeleton.model), skeleton.tied

    def block(self, block: BlockPlan, names: Sequence[str]) -> dict[str, Tensor]:
        """Return the tensors of a block by the model's own names, weights unpacked."""
        del block
        wanted = {name: self._tied.get(name, name) for name in names}
        tensors = self._source.read(dict.fromkeys(wanted.values()))
        return {name: tensors[first] for name, first in wanted.items()}


def _check_schemes(stored: Mapping[str, PackedLayer], written: Sequence[LayerPlan]) -> None:
    """Compare what a config says of each layer with what was written."""
    for layer in written:
        found = stored[layer.name].scheme if layer.name in stored else None
        if (found is None) != (layer.scheme is None) or (
            found is not None and layer.scheme is not None and found.bits != layer.scheme.bits
        ):
            raise VerificationError(
                f"layer {layer.name} was written as {layer.scheme or '16 bit'}, and the config "
                f"that was written calls it {found or '16 bit'}"
            )
