"""A quantized checkpoint, opened: its config and headers, and what is quantized how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoround.checkpoints.packed_layers import match_packed_layers
from autoround.errors import FormatError, ModelError
from autoround.formats.format import PackedLayer
from autoround.formats.registry import method_of
from autoround.formats.written import written_layers
from autoround.model.blocks import decoder_blocks
from autoround.model.build import build_empty
from autoround.model.files.locate import read_config, read_quantization
from autoround.model.files.source import CheckpointSource, WeightSource
from autoround.types import BlockPlan, Plan


@dataclass(frozen=True)
class QuantizedSource:
    """A quantized checkpoint, opened; no weight is read yet.

    packed: its packed layers by their names in the files. plan: all of its layers, without any
    output. notes: what of its config does not hold or is not followed.
    """

    folder: Path
    config: dict[str, Any]
    method: str
    files: WeightSource
    packed: Mapping[str, PackedLayer]
    plan: Plan
    notes: tuple[str, ...]

    @property
    def transposed(self) -> set[str]:
        """Layers whose weight the model stores as [in, out], by their names in the files."""
        layers = [x for block in self.plan.blocks for x in block.layers if x.transposed]
        return {x.name for x in written_layers(layers)}

    @property
    def file_bytes(self) -> int:
        """Bytes of the files of weights that are in the folder."""
        return sum(file.stat().st_size for file in self.folder.glob("*.safetensors"))


def open_quantized(folder: Path, files: WeightSource | None = None) -> QuantizedSource:
    """Read config and headers, and tell what is quantized how.

    Args:
        folder: of the checkpoint.
        files: its tensors; None for those in the folder.

    Raises:
        ModelError: it is not quantized, or no model that can be built.
        FormatError: its quantization cannot be understood, or does not fit the model.
    """
    config = read_config(folder)
    quantization = read_quantization(folder, config)
    if quantization is None:
        raise ModelError(f"{folder} is not quantized; `autoround quantize` makes it so")
    built = build_empty(folder)
    files = CheckpointSource(folder) if files is None else files
    unpacking, layers = match_packed_layers(built, files, quantization)
    stored = unpacking.layers
    if not stored:
        raise FormatError(f"{folder}: its quantization_config names no layer of this model")
    blocks = decoder_blocks(built)
    inside = tuple(b + "." for b in blocks)
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "float16")
    plan = Plan(
        model=str(folder),
        architecture=type(built).__name__,
        blocks=tuple(
            BlockPlan(
                i, b, tuple(x for n, own in layers.items() if n.startswith(b + ".") for x in own)
            )
            for i, b in enumerate(blocks)
        ),
        kept=tuple(x for n, own in layers.items() if not n.startswith(inside) for x in own),
        recipe={},
        outputs=(),
        dtype=dtype.removeprefix("torch."),
        device="cpu",
        calibration="none",
    )
    notes = tuple(unpacking.notes)
    return QuantizedSource(folder, config, method_of(quantization), files, stored, plan, notes)
