"""The last check of a run: one batch through the blocks as they can be read from the files.

While blocks are handed to the writers, a few tokens are run through them as they are in
memory. When the files are complete they are opened as a loader would, by their config;
every block is unpacked from them and the same tokens are run again. What comes out of
the last block must be the same but for the dtype of kept tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from autoround.core.rounding import dense_weight
from autoround.errors import ModelError, VerificationError
from autoround.formats import layouts
from autoround.formats.checkpoints import stored_layers
from autoround.formats.gguf_carried import dense
from autoround.formats.gguf_layout import GgufTensor
from autoround.model.locate import read_config
from autoround.model.runner import BlockRunner
from autoround.model.skeleton import Skeleton
from autoround.model.source import CheckpointSource
from autoround.types import BlockPlan, Plan, QuantizedTensor

#: Tokens of the batch.
TOKENS = 32
#: Largest squared difference of the outputs, relative to their mean square. Rounding kept
#: tensors to 16 bits stays below 1e-5; a zero point off by one is above 0.1.
TOLERANCE = 1e-3


class Reading(Protocol):
    """A written output, opened again."""

    def block(self, block: BlockPlan, names: Sequence[str]) -> dict[str, Tensor]:
        """Return the tensors of a block by the model's own names, weights unpacked."""


class Rehearsal:
    """A batch on its way through the blocks of a model, in float32 on the CPU."""

    def __init__(self, skeleton: Skeleton, plan: Plan, *, ids: Tensor | None) -> None:
        self._skeleton, self._plan = skeleton, plan
        self._runner = BlockRunner(skeleton, device=torch.device("cpu"), dtype=torch.float32)
        if ids is None:
            rng = torch.Generator().manual_seed(0)
            ids = torch.randint(0, _vocabulary(skeleton), (1, TOKENS), generator=rng)
        ids = ids[:1, :TOKENS]
        try:
            self._runner.prepare(ids)
            first = self._runner.embed(ids)
        except ModelError:
            # Blocks that need the tokens themselves cannot be run by themselves.
            first = None
        self._runner.release()
        self._first = first
        self._transposed = {x.name for b in plan.blocks for x in b.quantized if x.transposed}
        self.hidden = first

    @property
    def what(self) -> str:
        """Say in words what is run."""
        tokens = 0 if self._first is None else self._first.shape[1]
        return f"a batch of {tokens} tokens" if tokens else "no batch (blocks need the tokens)"

    def advance(self, index: int, tensors: Mapping[str, Tensor]) -> None:
        """Run the batch through a block; tensors by the model's own names."""
        if self.hidden is None:
            return
        prefix = self._plan.blocks[index].name + "."
        weights = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
        placed = self._runner.place(weights) | self._runner.buffers(index)
        with torch.no_grad():
            self.hidden = self._runner.run(index, placed, hidden=self.hidden)

    def advance_carried(
        self,
        index: int,
        layers: Mapping[str, QuantizedTensor | GgufTensor],
        kept: Mapping[str, Tensor],
    ) -> None:
        """Run the batch through a block as it is in memory."""
        if self.hidden is None:
            return
        weights = {name: dense(layer) for name, layer in layers.items()}
        turned = {
            f"{name}.weight": w.t() if name in self._transposed else w
            for name, w in weights.items()
        }
        self.advance(index, {**kept, **turned})

    def compare(self, written: Reading, what: str) -> float | None:
        """Run the batch through the written blocks; return the relative squared difference.

        None where blocks cannot be run by themselves.

        Raises:
            VerificationError: the outputs differ.
        """
        if self.hidden is None or self._first is None:
            return None
        expected, self.hidden = self.hidden, self._first
        for block in self._plan.blocks:
            names = self._skeleton.names_under(block.name)
            self.advance(block.index, written.block(block, names))
        got, self.hidden = self.hidden, expected
        power = float(expected.double().square().mean())
        error = float((got.double() - expected.double()).square().mean()) / max(power, 1e-30)
        if not error <= TOLERANCE:
            raise VerificationError(
                f"{what}: read back, the last block's output is {error:.2e} of its size away from "
                f"that of the codes in memory (allowed: {TOLERANCE:.0e}); the files are not used"
            )
        return error


def _vocabulary(skeleton: Skeleton) -> int:
    config = skeleton.config
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    return int(getattr(text, "vocab_size", 0) or 256)


class CheckpointReading:
    """A folder of safetensors files, read by what its config says."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self._source = CheckpointSource(folder)
        every = [x for block in plan.blocks for x in block.layers]
        self._layers = {x.name: x for x in every}
        quantization = read_config(folder).get("quantization_config")
        self._stored = {}
        if quantization is not None:
            shapes = {x.name: x.shape for x in every}
            self._stored = stored_layers(quantization, shapes, self._source.headers())
        self._folder = folder

    def block(self, block: BlockPlan, names: Sequence[str]) -> dict[str, Tensor]:
        """Return the tensors of a block by the model's own names, weights unpacked."""
        replaced = {f"{x.name}.weight" for x in block.layers if x.name in self._stored}
        found = self._source.read(name for name in names if name not in replaced)
        headers = self._source.headers()
        for layer in block.layers:
            if layer.name not in self._stored:
                continue
            scheme, packing = self._stored[layer.name]
            parts = [part for part in layouts.PARTS if f"{layer.name}.{part}" in headers]
            tensors = self._source.read(f"{layer.name}.{part}" for part in parts)
            held = layouts.from_tensors(
                {part: tensors[f"{layer.name}.{part}"] for part in parts},
                scheme,
                packing=packing,
                name=layer.name,
            )
            weight = dense_weight(held)
            found[f"{layer.name}.weight"] = weight.t() if layer.transposed else weight
        return found
