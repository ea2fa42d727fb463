"""The last check of a run: one batch through the blocks as they can be read from the files.

While blocks are handed to the writers, a few tokens are run through them as they are in
memory. When the files are complete they are opened as a loader would, by their config;
every block is unpacked from them and the same tokens are run again. What comes out of
the last block must be the same but for the dtype of kept tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from autoround.core.loss import relative_square_error
from autoround.device.protocol import Upload
from autoround.errors import ModelError, VerificationError
from autoround.export.files_on_device import FilesOnDevice
from autoround.formats.faults import raise_first
from autoround.formats.format import PackedLayer
from autoround.formats.unpacking import UnpackingSource
from autoround.formats.written import written_layers
from autoround.model.convert import ConvertedSource
from autoround.model.files.locate import read_config
from autoround.model.files.source import CheckpointSource, WeightSource
from autoround.model.positions import text_config
from autoround.model.runner import BlockRunner
from autoround.model.skeleton import Skeleton
from autoround.model.stacked_experts import as_stored
from autoround.session.block_output import BlockOutput
from autoround.types import BlockPlan, LayerPlan, Plan

CPU = torch.device("cpu")
#: Brings tensors to a device.
UploadTensors: TypeAlias = Callable[[Mapping[str, Tensor]], Upload]
#: Tokens of the batch.
TOKENS = 32
#: Largest squared difference of the outputs, relative to their mean square. Rounding kept
#: tensors to 16 bits stays below 1e-5; a zero point off by one is above 0.1.
TOLERANCE = 1e-3


class WrittenModel(Protocol):
    """A written output, opened again."""

    def block(self, block: BlockPlan, names: Sequence[str]) -> dict[str, Tensor]:
        """Return the tensors of a block by the model's own names, weights unpacked."""

    def raise_late(self) -> None:
        """Raise what was found wrong while blocks were read, and not raised yet."""


class ReadBackCheck:
    """A batch of a few tokens on its way through the blocks of a model, in float32.

    Args:
        skeleton: the model.
        plan: of the pass that is checked.
        ids: int64 [n, seq] calibration tokens, of which some are taken; None draws random ones.
        device: that the blocks are run on.
        upload: brings tensors there; None for a copy that waits.
    """

    def __init__(
        self,
        skeleton: Skeleton,
        plan: Plan,
        *,
        ids: Tensor | None,
        device: torch.device = CPU,
        upload: UploadTensors | None = None,
    ) -> None:
        self.upload = upload
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
        weights = {name: output.dense(name, self._device) for name in output.layers}
        tensors = block.by_param(kept)
        placed = tensors if self.upload is None else self.upload(tensors).result()
        self._run_block(block, {**placed, **as_stored(block, weights)})

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
        written.raise_late()
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

    def __init__(
        self,
        folder: Path,
        plan: Plan,
        skeleton: Skeleton,
        *,
        upload: UploadTensors | None = None,
    ) -> None:
        """Open a folder; no weight is read.

        Args:
            folder: of the files. plan: that they were written by. skeleton: the model.
            upload: brings packed tensors to where they are unpacked; None for the CPU.

        Raises:
            VerificationError: its config calls other layers quantized than the plan.
        """
        files: WeightSource = CheckpointSource(folder)
        self._on_device = None if upload is None else FilesOnDevice(files, upload)
        source = files = self._on_device or files
        quantization = read_config(folder).get("quantization_config")
        self._unpacking: UnpackingSource | None = None
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
            if upload is not None:
                unpacking.late = []
            source = self._unpacking = unpacking
        self._source, self._skeleton = ConvertedSource(source, skeleton.model), skeleton
        self._blocks = plan.blocks

    def block(self, block: BlockPlan, names: Sequence[str]) -> dict[str, Tensor]:
        """Return the tensors of a block by the model's own names, weights unpacked."""
        if self._on_device is not None:
            following = [
                name
                for after in self._blocks[block.index + 1 : block.index + 2]
                for name in self._skeleton.names_under(after.name)
            ]
            self._on_device.bring(self._in_files(names), following=self._in_files(following))
        wanted = {name: self._skeleton.tied.get(name, name) for name in names}
        tensors = self._source.read(dict.fromkeys(wanted.values()))
        return {name: tensors[first] for name, first in wanted.items()}

    def _in_files(self, names: Sequence[str]) -> list[str]:
        """Return the names of all that the files hold for tensors of the model."""
        stored = self._source.stored_names(self._skeleton.tied.get(name, name) for name in names)
        unpacking = self._unpacking
        return list(dict.fromkeys(unpacking.stored_names(stored) if unpacking else stored))

    def raise_late(self) -> None:
        """Raise what was wrong with values that were unpacked, where that was not raised at once.

        Raises:
            FormatError: of the first such layer.
        """
        if self._unpacking is not None and self._unpacking.late:
            raise_first(self._unpacking.late)


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
