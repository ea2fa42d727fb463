"""From one integer format to another without tuning again: the codes are carried over."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autoround.checkpoints.conversion_plan import plan_or_refuse
from autoround.checkpoints.quantized_source import QuantizedSource, open_quantized
from autoround.core.dtypes import DTYPES
from autoround.errors import FormatError, ModelError
from autoround.export.preflight import check_output, check_room
from autoround.export.safetensors_writer import in_output_dtype, layer_tensors
from autoround.export.shards import ShardWriter
from autoround.export.staging import Staging
from autoround.formats.adapt import adapt
from autoround.formats.packed_headers import owned_tensors
from autoround.formats.registry import (
    format_of,
    layout_named,
    lowest_zero,
)
from autoround.formats.regroup import regroup
from autoround.model.files.legacy_config import with_legacy_keys
from autoround.model.files.locate import locate_model
from autoround.model.files.quantization_config import without_quantization
from autoround.model.files.source import CheckpointSource, WeightSource
from autoround.types import LayerPlan, OutputPlan, Plan, QuantizedTensor, Scheme

#: Bytes of one output file.
MAX_SHARD_BYTES = 5 * 10**9


@dataclass(frozen=True, slots=True)
class Conversion:
    """What a conversion did.

    exact: layers whose weights are equal bit for bit. shifted: groups among them that
    moved by a level to fit. lossy: the other layers, and what changed. notes: what of the
    source's config does not hold or is not carried over, and layers beyond its model class.
    """

    output_dir: Path
    method: str
    formats: tuple[str, ...]
    exact: int
    shifted: int
    lossy: dict[str, str]
    disk_bytes: int
    notes: tuple[str, ...] = ()


def convert(
    model: str | Path, output: Path, *, formats: Sequence[str], allow_lossy: bool = False
) -> Conversion:
    """Write a quantized checkpoint in other formats.

    Raises:
        ModelError, FormatError: before anything is written, unless it takes reading the
            codes to know; the output folder then does not exist.
    """
    check_output(output)
    source = open_quantized(locate_model(model))
    files = CheckpointSource(source.folder)
    plan = plan_or_refuse(source, formats)
    check_room(output, len(formats) * source.file_bytes)
    exact, shifted, lossy = 0, 0, {}
    schemes: dict[str, Scheme] = {}
    with ExitStack() as stack:
        whole = stack.enter_context(Staging(output)) if len(formats) > 1 else None
        root = output if whole is None else whole.staging
        writers = [
            (
                part,
                stack.enter_context(
                    ShardWriter(root / part.folder, max_shard_bytes=MAX_SHARD_BYTES)
                ),
            )
            for part in plan.outputs
        ]
        for _, writer in writers:
            writer.copy_side_files(source.folder)
        for name in source.packed:
            layer, moved, lost = _convert_layer(source, files, name, writers)
            if lost and not allow_lossy:
                raise FormatError(
                    f"layer {name}: {lost}; allow it with --allow-lossy, or choose another format"
                )
            schemes[name] = layer.scheme
            exact, shifted = exact + (not lost), shifted + moved
            if lost:
                lossy[name] = lost
        _copy_kept(source, files, writers)
        size = _finish(source, _described(plan, schemes), writers)
        if whole is not None:
            size = whole.publish()
    done = (tuple(formats), exact, shifted, lossy, size, source.notes)
    return Conversion(output, source.method, *done)


def _convert_layer(
    source: QuantizedSource,
    files: WeightSource,
    name: str,
    writers: Sequence[tuple[OutputPlan, ShardWriter]],
) -> tuple[QuantizedTensor, int, str]:
    """Carry one layer over; returns it, the groups that moved, and what was lost."""
    scheme, packing = source.packed[name]
    headers = source.headers
    layout = layout_named(packing)
    parts = [part for part in layout.parts if f"{name}.{part}" in headers]
    tensors = files.read(f"{name}.{part}" for part in parts)
    by_part = {part: tensors[f"{name}.{part}"] for part in parts}
    layer = layout.from_tensors(by_part, scheme, name=name)
    if not bool(torch.isfinite(layer.scale).all()):
        raise FormatError(f"layer {name}: its scales hold NaN or infinity")
    order = _order(by_part.get("g_idx"), layer.scheme, name=name, groups=layer.scale.shape[1])
    lowest = lowest_zero([part for part, _ in writers])
    rounded = ""
    refused = [part.format for part, _ in writers if not layout_named(part.packing).ordered]
    if order is not None and refused:
        layer, error = regroup(layer, order, lowest_zero=lowest)
        order = None
        if error:  # whole groups in another order may come out as they were
            rounded = (
                f"its inputs are grouped out of order (desc_act), which {refused[0]} cannot hold "
                f"(auto_gptq and gptq_v2 can): rounded again, relative squared error {error:.1e}"
            )
    fitted = adapt(layer, lowest=lowest, highest=2**scheme.bits - 1)
    if order is not None and fitted.shifted:
        raise FormatError(
            f"layer {name}: zero points that {writers[0][0].format} cannot hold, in groups out "
            "of order (desc_act)"
        )
    lost = [reason for reason in (rounded, fitted.lost) if reason]
    for part, writer in writers:
        changed = layout_named(part.packing).inexact(fitted.layer, DTYPES[part.dtype])
        lost += [f"{changed} in {part.format}"] if changed else []
        turned = [name] if name in source.transposed else []
        found = layer_tensors({name: fitted.layer}, part, transposed=turned)
        if order is not None:
            found[f"{name}.g_idx"] = order
        writer.add(found)
    return fitted.layer, fitted.shifted, "; ".join(lost)


def _order(index: Tensor | None, scheme: Scheme, *, name: str, groups: int) -> Tensor | None:
    """Return the group of each input where it is not simply its place."""
    if index is None or scheme.group_size <= 0:
        return None
    if int(index.min()) < 0 or int(index.max()) >= groups:
        raise FormatError(f"layer {name}: g_idx names groups outside 0 … {groups - 1}")
    plain = torch.arange(len(index), dtype=index.dtype) // scheme.group_size
    return None if torch.equal(index, plain) else index


def _copy_kept(
    source: QuantizedSource, files: WeightSource, writers: Sequence[tuple[OutputPlan, ShardWriter]]
) -> None:
    owned = owned_tensors(source.packed)
    for name in source.headers:
        if name in owned:
            continue
        tensors = files.read([name])
        tensor = tensors[name]
        if tensor.is_floating_point() and bool(tensor.isnan().any()):
            raise ModelError(f"{source.folder}: tensor {name} holds NaN")
        for part, writer in writers:
            # What is wider than the rest of a checkpoint is so on purpose.
            wide = tensor.dtype == torch.float32 and source.plan.dtype != "float32"
            same = wide or part.dtype == source.plan.dtype
            writer.add(tensors if same else in_output_dtype(part, tensors))


def _described(plan: Plan, schemes: Mapping[str, Scheme]) -> Plan:
    """Put the schemes as they were found into a plan: codes may belie their config."""

    def found(layers: tuple[LayerPlan, ...]) -> tuple[LayerPlan, ...]:
        return tuple(dataclasses.replace(x, scheme=schemes.get(x.file, x.scheme)) for x in layers)

    blocks = tuple(dataclasses.replace(b, layers=found(b.layers)) for b in plan.blocks)
    return dataclasses.replace(plan, blocks=blocks, kept=found(plan.kept))


def _finish(
    source: QuantizedSource, plan: Plan, writers: Sequence[tuple[OutputPlan, ShardWriter]]
) -> int:
    size = 0
    for part, writer in writers:
        plain = without_quantization(source.config)
        plain.pop("torch_dtype", None)
        config = with_legacy_keys(plain)
        config["dtype"] = part.dtype
        quantization: dict[str, Any] = {}
        written = format_of(part)
        for key in written.config_keys:
            config[key] = quantization = written.config(plan, part)
        for file, content in written.side_files(quantization).items():
            writer.add_text(file, json.dumps(content, indent=2) + "\n")
        size += writer.finish(config)
    return size
