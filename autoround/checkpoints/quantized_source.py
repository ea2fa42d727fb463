"""A quantized checkpoint, opened: its config and headers, and what is quantized how."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from autoround.checkpoints.known_layers import match_known_class
from autoround.errors import FormatError, ModelError
from autoround.formats.format import PackedLayer
from autoround.formats.registry import method_of
from autoround.formats.written import written_layers
from autoround.model.files.locate import read_config, read_quantization
from autoround.model.files.stored import HeaderSource, StoredFiles
from autoround.storage.dtypes import StoredHeaders
from autoround.types import BlockPlan, Plan

#: Makes what surrounds the building of a model class.
Building: TypeAlias = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class QuantizedSource:
    """A quantized checkpoint by its config and headers; no weight is read.

    headers: of its tensors, by name. packed: its packed layers by their names in the files. plan:
    all of its layers, without any output. notes: what of its config does not hold or is not
    followed.
    """

    folder: Path
    config: dict[str, Any]
    method: str
    headers: StoredHeaders
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


def open_quantized(
    folder: Path, files: HeaderSource | None = None, *, building: Building = nullcontext
) -> QuantizedSource:
    """Read config and headers, and tell what is quantized how.

    Args:
        folder: of the checkpoint.
        files: headers of its tensors; None for those in the folder.
        building: makes what surrounds the model's class while that is imported and built, where
            what is written down of it does not do.

    Raises:
        ModelError: it is not quantized, or no model that can be built.
        FormatError: its quantization cannot be understood, or does not fit the model.
    """
    config = read_config(folder)
    quantization = read_quantization(folder, config)
    if quantization is None:
        raise ModelError(f"{folder} is not quantized; `autoround quantize` makes it so")
    files = StoredFiles(folder) if files is None else files
    matched = match_known_class(folder, files, config, quantization)
    if matched is None:
        # Not at the top of the module: a class takes ten times as long as all else here.
        with building():
            from autoround.checkpoints.packed_layers import match_class

            matched = match_class(folder, files, quantization)
    if not matched.packed:
        raise FormatError(f"{folder}: its quantization_config names no layer of this model")
    layers, blocks = matched.layers, matched.blocks
    inside = tuple(b + "." for b in blocks)
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "float16")
    plan = Plan(
        model=str(folder),
        architecture=matched.architecture,
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
    method, notes = method_of(quantization), tuple(matched.notes)
    return QuantizedSource(
        folder, config, method, files.header_names(), matched.packed, plan, notes
    )
