"""A folder of safetensors files: packed layers, unquantized tensors, and the configs."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autoround.core.dtypes import DTYPES
from autoround.core.rounding import dense_weight
from autoround.errors import FormatError, VerificationError
from autoround.export.config_check import why_another_model
from autoround.export.load_check import Batch, Loader, check_loads
from autoround.export.model_config import model_config, untie
from autoround.export.shards import ShardWriter
from autoround.export.verify import ReadBackCheck, WrittenCheckpoint
from autoround.formats.registry import format_of, layout_named
from autoround.formats.written import NUMBER, matrix_names, split
from autoround.model.skeleton import Skeleton
from autoround.model.stacked_experts import from_matrix
from autoround.session.block_output import BlockOutput
from autoround.session.packed_weights import pack_weights, packs_at_once
from autoround.types import LayerPlan, OutputPlan, Plan, QuantizedTensor


class SafetensorsWriter:
    """A folder of safetensors files with a config.json.

    Args:
        shards: takes the tensors.
        plan: of the pass.
        part: the format.
        skeleton: the model.
        check: holds the files against the blocks in memory.
        load: what a user loads the folder by; None not to try.
    """

    def __init__(
        self,
        shards: ShardWriter,
        plan: Plan,
        *,
        part: OutputPlan,
        skeleton: Skeleton,
        check: ReadBackCheck,
        load: Loader | None = None,
    ) -> None:
        self._shards, self._plan, self._part, self._skeleton = shards, plan, part, skeleton
        self.check, self._load = check, load
        self._layers = {x.name: x for x in plan.layers}
        self._quantized_outside = {x.tensor for x in plan.kept if x.scheme is not None}

    @property
    def staging(self) -> Path:
        """Where the files are until they are published."""
        return self._shards.staging

    def add(self, output: BlockOutput) -> None:
        """Pack the layers of a finished block, check that they read back, and write them."""
        self.write(self.pack(output))

    def pack(self, output: BlockOutput) -> list[Mapping[str, Tensor]]:
        """Return the tensors of a finished block, and run the check's batch through it.

        Args:
            output: its layers are packed here unless they are in this layout by now.

        Returns:
            The tensors by their names in the files, on the CPU and in their order.

        Raises:
            VerificationError: a layer does not come back as it was.
            FormatError: the format cannot hold a weight, or the value of an unquantized tensor.
        """
        packed = self._pack_layers(output)
        tied = self._skeleton.tied
        kept = {n: t for n, t in output.kept.items() if n not in tied}
        self.check.add(output, output.kept)
        return [packed, self._kept_in_files(kept)]

    def write(self, tensors: Sequence[Mapping[str, Tensor]]) -> None:
        """Write what :meth:`pack` made of a block.

        Args:
            tensors: by their names in the files, on the CPU.
        """
        for part in tensors:
            self._shards.add(part)

    def _pack_layers(self, output: BlockOutput) -> dict[str, Tensor]:
        plain = {n: w for n, w in output.layers.items() if isinstance(w, QuantizedTensor)}
        if len(plain) != len(output.layers):
            raise FormatError(f"format {self._part.format} cannot hold super-blocks of scales")
        packing = self._part.packing
        if layout_named(packing).dense:
            weights = {
                self._layers[n].tensor: from_matrix(
                    self._layers[n], output.dense(n, layer.codes.device)
                )
                for n, layer in plain.items()
            }
            return {n: t.to("cpu") for n, t in self._in_files(weights).items()}
        if not packs_at_once(packing):
            tensors: dict[str, Tensor] = {}
            for name, layer in plain.items():
                tensors |= pack_layers(dict(split(self._layers[name], layer)), packing)
            return tensors
        packed = {n: weight for n, weight in output.packed.items() if weight.is_in(packing)}
        rest = {n: layer for n, layer in plain.items() if n not in packed}
        packed |= pack_weights(rest, self._layers, packing)
        return {
            name: tensor
            for layer in plain
            for name, tensor in name_tensors(self._layers[layer], packed[layer].tensors).items()
        }

    def _kept_in_files(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return unquantized tensors as the files hold them; a quantized head's is none."""
        return self._in_files(
            {n: t for n, t in tensors.items() if n not in self._quantized_outside}
        )

    def _in_files(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        written = in_output_dtype(self._part, tensors, float32=self._plan.float32)
        return file_tensors(self._skeleton, written)

    def add_unquantized(self, tensors: Mapping[str, Tensor]) -> None:
        """Write tensors in the dtype of this output; a quantized head's comes by itself."""
        self._shards.add(self._kept_in_files(tensors))

    def add_unmapped(self, tensors: Mapping[str, Tensor]) -> None:
        """Write tensors as they are."""
        self._shards.add(tensors)

    def add_text(self, name: str, text: str) -> None:
        """Write a small file beside the tensors."""
        self._shards.add_text(name, text)

    def complete(self) -> None:
        """Write the configs, close the shards, and hold what they say against the blocks."""
        config = output_config(self._plan, self._part, self._skeleton)
        quantization = config.get("quantization_config") or {}
        for file, content in format_of(self._part).side_files(quantization).items():
            self._shards.add_text(file, json.dumps(content, indent=2) + "\n")
        self._shards.complete(config)
        reason = why_another_model(self._shards.staging, self._skeleton)
        if reason:
            raise VerificationError(f"the config that was written makes another model: {reason}")
        written = WrittenCheckpoint(
            self._shards.staging, self._plan, self._skeleton, upload=self.check.upload
        )
        self.check.compare(written, f"format {self._part.format}")
        # On text alone, as the small copy of the class was run; a dense checkpoint has nothing new.
        packed = not layout_named(self._part.packing).dense
        if self._load is not None and self._plan.runs_on_text and packed:
            check, blocks = self.check, tuple(block.name for block in self._plan.blocks)
            batch = Batch(check.ids, blocks, check.first, check.read_back)
            check_loads(self._shards.staging, self._load, batch)

    def publish(self) -> int:
        """Move the complete folder into place; returns its bytes."""
        return self._shards.publish()


def name_tensors(layer: LayerPlan, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a packed layer by their names in the files, matrix by matrix.

    Args:
        layer: of the plan.
        parts: by part; those of stacked experts have an axis of matrices.
    """
    names = matrix_names(layer)
    if not layer.experts:
        return {f"{names[0]}.{part}": tensor for part, tensor in parts.items()}
    return {
        f"{name}.{part}": tensor[number]
        for number, name in enumerate(names)
        for part, tensor in parts.items()
    }


def file_tensors(skeleton: Skeleton, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give tensors the names, and stacked experts the shapes, that checkpoints have."""
    found = {}
    for name, tensor in tensors.items():
        stacked = skeleton.stacked.get(name)
        files = skeleton.names.experts(stacked) if stacked is not None else ()
        if stacked is None or not files:
            found[skeleton.names.tensor(name)] = tensor
            continue
        # [experts, out, in], whichever way the model stores them.
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

    Args:
        layers: as the files name them; codes uint8 [out, in].
        output: names the packing and the dtype.
        transposed: layers whose weight the model stores as [in, out].

    Returns:
        The tensors by their names in the files.

    Raises:
        VerificationError: a layer does not come back as it was.
    """
    if not layout_named(output.packing).dense:
        return pack_layers(layers, output.packing)
    dense = {name: dense_weight(layer) for name, layer in layers.items()}
    weights = {f"{n}.weight": w.t() if n in transposed else w for n, w in dense.items()}
    return in_output_dtype(output, weights)


def pack_layers(layers: Mapping[str, QuantizedTensor], packing: str) -> dict[str, Tensor]:
    """Lay quantized layers out as named tensors of the output format, and read them back.

    Args:
        layers: by the names they are written under, on any device.
        packing: name of the layout.

    Returns:
        The tensors by their names in the files, on the CPU.

    Raises:
        VerificationError: a layer does not come back as it was.
    """
    found: dict[str, Tensor] = {}
    layout = layout_named(packing)
    for name, layer in layers.items():
        parts = layout.to_tensors(layer)
        # Compared by value below: one scale a tensor comes back as one a channel.
        back = layout.from_tensors(parts, layer.scheme, name=name)
        if not (
            torch.equal(back.codes, layer.codes)
            and bool((back.scale == layer.scale).all())
            and bool((back.zero == layer.zero).all())
        ):
            raise VerificationError(f"layer {name} does not come back from {packing} as it was")
        # Packed and compared where the layer is: nothing wider than the packed bytes leaves it.
        found |= {f"{name}.{part}": tensor.to("cpu") for part, tensor in parts.items()}
    return found


def in_output_dtype(
    output: OutputPlan, tensors: Mapping[str, Tensor], *, float32: Collection[str] = ()
) -> dict[str, Tensor]:
    """Give kept tensors the dtype of an output.

    Args:
        output: says the dtype.
        tensors: by name.
        float32: names of those that are left as they are.

    Raises:
        FormatError: a value is too large for it.
    """
    dtype = DTYPES[output.dtype]
    found = cast_tensors(output, tensors, float32=float32)
    # bfloat16 has the range of float32: no value becomes infinite.
    if dtype == torch.float16:
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and bool((found[name].isinf() & ~tensor.isinf()).any()):
                raise FormatError(
                    f"tensor {name} holds values too large for float16, which format "
                    f"{output.format} is written in; set output.dtype=bfloat16"
                )
    return found


def cast_tensors(
    output: OutputPlan, tensors: Mapping[str, Tensor], *, float32: Collection[str] = ()
) -> dict[str, Tensor]:
    """Give tensors the dtype of an output, whatever becomes of their values.

    Args:
        output: says the dtype.
        tensors: by name, on any device.
        float32: names of those that are left as they are.
    """
    dtype = DTYPES[output.dtype]
    return {
        n: t.to(dtype) if t.is_floating_point() and n not in float32 else t
        for n, t in tensors.items()
    }


def output_config(plan: Plan, output: OutputPlan, skeleton: Skeleton) -> dict[str, Any]:
    """Return the config of the result: the original's, and what was quantized how."""
    config = model_config(skeleton, plan.architecture, output.dtype)
    # A quantized head has tensors of its own, beside the embeddings it was tied to.
    if any(x.scheme is not None and x.tensor in skeleton.tied for x in plan.kept):
        untie(config)
    written = format_of(output)
    for key in written.config_keys:
        config[key] = written.config(plan, output)
    return config
