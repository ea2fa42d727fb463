"""Where finished layers and kept tensors go: one object for each format that is written."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from autoround.core.dtypes import DTYPES
from autoround.core.rounding import dense_weight
from autoround.errors import FormatError, VerificationError
from autoround.export.model_config import model_config, untie
from autoround.export.shards import ShardWriter
from autoround.export.verify import WrittenCheckpoint, WrittenModel
from autoround.formats import layouts, registry
from autoround.formats.gguf.blocks import GgufTensor
from autoround.formats.written import NUMBER, split
from autoround.model.skeleton import Skeleton
from autoround.model.stacked_experts import from_matrix
from autoround.types import OutputPlan, Plan, QuantizedTensor


class OutputWriter(Protocol):
    """One format of a run; blocks come in order, then what lies outside them.

    rounds_kept: whether it rounds tensors of blocks that are handed to it as kept ones.
    """

    rounds_kept: bool

    def add_layers(self, layers: Mapping[str, QuantizedTensor | GgufTensor]) -> None:
        """Take the quantized layers of a block, by name."""

    def add_kept(self, tensors: Mapping[str, Tensor]) -> None:
        """Take tensors that stay as they are, by the model's own names."""

    def held(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return the kept tensors of the block that was added last as this output holds them."""

    def add_extras(self, tensors: Mapping[str, Tensor]) -> None:
        """Take tensors of the checkpoint that the model class does not know."""

    def add_text(self, name: str, text: str) -> None:
        """Write a small file beside the tensors."""

    def complete(self) -> WrittenModel:
        """Complete the files and check them; returns them opened again."""

    def publish(self) -> int:
        """Move the complete folder into place; returns its bytes."""


class SafetensorsWriter:
    """A folder of safetensors files with a config.json."""

    rounds_kept = False

    def __init__(
        self, writer: ShardWriter, plan: Plan, part: OutputPlan, skeleton: Skeleton
    ) -> None:
        self._writer, self._plan, self._part, self._skeleton = writer, plan, part, skeleton
        self._layers = {x.name: x for x in plan.layers}
        self._outside = {x.tensor for x in plan.kept if x.scheme is not None}

    def add_layers(self, layers: Mapping[str, QuantizedTensor | GgufTensor]) -> None:
        """Lay the layers out in the format, and check that they read back."""
        plain = {n: layer for n, layer in layers.items() if isinstance(layer, QuantizedTensor)}
        if len(plain) != len(layers):
            raise FormatError(f"format {self._part.format} cannot hold super-blocks of scales")
        if self._part.packing == layouts.FAKE:
            weights = {
                self._layers[n].tensor: from_matrix(self._layers[n], dense_weight(layer))
                for n, layer in plain.items()
            }
            self._write_kept(weights)
            return
        for name, layer in plain.items():
            matrices = dict(split(self._layers[name], layer))
            self._writer.add(pack_layers(matrices, self._part.packing))

    def add_kept(self, tensors: Mapping[str, Tensor]) -> None:
        """Take tensors in the dtype of this output."""
        self._write_kept({n: t for n, t in tensors.items() if n not in self._outside})

    def _write_kept(self, tensors: Mapping[str, Tensor]) -> None:
        self._writer.add(in_output_dtype(self._part, file_tensors(self._skeleton, tensors)))

    def held(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return the tensors themselves: their dtype is all that may change."""
        return tensors

    def add_extras(self, tensors: Mapping[str, Tensor]) -> None:
        """Take tensors as they are."""
        self._writer.add(tensors)

    def add_text(self, name: str, text: str) -> None:
        """Write a small file beside the tensors."""
        self._writer.add_text(name, text)

    def complete(self) -> WrittenModel:
        """Write the configs and check the files; returns them opened again."""
        config = output_config(self._plan, self._part, self._skeleton)
        own = config.get("quantization_config") or {}
        for file, content in registry.side_files(self._part, own).items():
            self._writer.add_text(file, json.dumps(content, indent=2) + "\n")
        self._writer.complete(config)
        return WrittenCheckpoint(self._writer.staging, self._plan, self._skeleton)

    def publish(self) -> int:
        """Move the complete folder into place; returns its bytes."""
        return self._writer.publish()


def file_tensors(skeleton: Skeleton, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give tensors the names, and stacked experts the shapes, that checkpoints have."""
    found = {}
    for name, tensor in tensors.items():
        stacked = skeleton.stacked.get(name)
        files = skeleton.names.experts(stacked) if stacked is not None else ()
        if stacked is None or not files:
            found[skeleton.names.tensor(name)] = tensor
            continue
        whole = tensor.transpose(1, 2) if stacked.transposed else tensor
        for part, file in enumerate(files):
            for expert in range(stacked.count):
                rows = whole[expert, stacked.rows(part)]
                found[f"{file.replace(NUMBER, str(expert))}.weight"] = rows.contiguous()
    return found


def layer_tensors(
    layers: Mapping[str, QuantizedTensor], output: OutputPlan, *, transposed: Collection[str]
) -> dict[str, Tensor]:
    """Turn quantized layers into the tensors of an output.

    transposed: layers whose weight the model stores as [in, out].

    Raises:
        VerificationError: a layer does not come back as it was.
    """
    if output.packing != layouts.FAKE:
        return pack_layers(layers, output.packing)
    dense = {name: dense_weight(layer) for name, layer in layers.items()}
    weights = {f"{n}.weight": w.t() if n in transposed else w for n, w in dense.items()}
    return in_output_dtype(output, weights)


def pack_layers(layers: Mapping[str, QuantizedTensor], packing: str) -> dict[str, Tensor]:
    """Lay quantized layers out as named tensors of the output format, and read them back.

    Raises:
        VerificationError: a layer does not come back as it was.
    """
    found: dict[str, Tensor] = {}
    for name, layer in layers.items():
        parts = layouts.to_tensors(layer, packing)
        back = layouts.from_tensors(parts, layer.scheme, packing=packing, name=name)
        if not (
            torch.equal(back.codes, layer.codes)
            and bool((back.scale == layer.scale).all())
            and bool((back.zero == layer.zero).all())
        ):
            raise VerificationError(f"layer {name} does not come back from {packing} as it was")
        found |= {f"{name}.{part}": tensor for part, tensor in parts.items()}
    return found


def in_output_dtype(output: OutputPlan, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give kept tensors the dtype of an output.

    Raises:
        FormatError: a value is too large for it.
    """
    dtype = DTYPES[output.dtype]
    found = {n: t.to(dtype) if t.is_floating_point() else t for n, t in tensors.items()}
    if dtype == torch.float16:
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and bool((found[name].isinf() & ~tensor.isinf()).any()):
                raise FormatError(
                    f"tensor {name} holds values too large for float16, which format "
                    f"{output.format} is written in; set output.dtype=bfloat16"
                )
    return found


def output_config(plan: Plan, output: OutputPlan, skeleton: Skeleton) -> dict[str, Any]:
    """Return the config of the result: the original's, and what was quantized how."""
    config = model_config(skeleton, plan.architecture, output.dtype)
    if any(x.scheme is not None and x.tensor in skeleton.tied for x in plan.kept):
        untie(config)
    for key in registry.config_keys(output):
        config[key] = registry.config(plan, output)
    return config
