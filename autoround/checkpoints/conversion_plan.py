"""What a conversion would do and refuse, from config and headers alone."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from autoround.checkpoints.quantized_source import Building, QuantizedSource, open_quantized
from autoround.errors import FormatError
from autoround.export.preflight import check_output, check_room
from autoround.formats.checkpoints import packed_shape
from autoround.formats.format import Format, Layout, PackedLayer, Weight
from autoround.formats.packed_headers import owned_tensors
from autoround.formats.registry import find_format, layout_named, matrix_bytes, plan_output
from autoround.formats.schemes import most_common
from autoround.formats.written import is_head
from autoround.model.files.locate import find_model
from autoround.storage.dtypes import ITEM_BYTES, KEPT_DTYPES, is_floating
from autoround.types import LayerPlan, OutputPlan, Plan, Scheme

#: Tensors that say which group each input is in.
_ORDERS = ("g_idx", "weight_g_idx")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a format cannot hold a checkpoint. layer: which one; empty where it is not about one."""

    reason: str
    layer: str = ""


@dataclass(frozen=True, slots=True)
class PackedPart:
    """Layers of one scheme and one layout in the files: how many, their weights and bytes."""

    scheme: str
    packing: str
    layers: int
    weights: int
    disk_bytes: int


@dataclass(frozen=True, slots=True)
class FormatOutlook:
    """What would become of a checkpoint in one format.

    packing: name of the layout; empty where the format takes no codes at all. disk_bytes: of all
    tensors; None where something is refused. refusals: what would stop the conversion. unknown:
    what only the codes can tell.
    """

    format: str
    packing: str
    disk_bytes: int | None
    refusals: tuple[Refusal, ...] = ()
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ConversionPlan:
    """What a conversion would do; nothing was read but config and headers.

    disk_bytes: of all tensors as they are. kept: tensors that are no packed layer's.
    """

    model: str
    method: str
    parts: tuple[PackedPart, ...]
    kept: int
    disk_bytes: int
    formats: tuple[FormatOutlook, ...]
    notes: tuple[str, ...] = ()

    @property
    def refusal(self) -> Refusal | None:
        """The first reason for which the conversion would end; None where headers show none."""
        return next((r for outlook in self.formats for r in outlook.refusals), None)


def plan_conversion(
    model: str | Path,
    *,
    formats: Sequence[str],
    output: Path | None = None,
    building: Building = nullcontext,
) -> ConversionPlan:
    """Say what :func:`autoround.checkpoints.convert.convert` would do, and write nothing.

    Args:
        model: quantized folder or hub id; of the latter no weights are fetched.
        formats: to write.
        output: folder to write to, which is looked at; None where it is not known yet.
        building: makes what surrounds the model's class while that is imported and built.

    Raises:
        ModelError, FormatError: the model cannot be understood, or a format does not exist.
        OutputError: the folder is not empty, or there is no room for it.
    """
    if output is not None:
        check_output(output)
    model_files = find_model(model)
    source = open_quantized(model_files.folder, model_files.headers(), building=building)
    outlooks = tuple(_look_ahead(source, name) for name in formats)
    headers = source.headers
    sizes = {n: math.prod(shape) * ITEM_BYTES[dtype] for n, (shape, dtype) in headers.items()}
    if output is not None and not any(outlook.refusals for outlook in outlooks):
        check_room(output, len(formats) * sum(sizes.values()))
    owned = owned_tensors(source.packed)
    return ConversionPlan(
        model=str(model),
        method=source.method,
        parts=_packed_parts(source, sizes),
        kept=sum(name not in owned for name in headers),
        disk_bytes=sum(sizes.values()),
        formats=outlooks,
        notes=source.notes,
    )


def plan_or_refuse(source: QuantizedSource, formats: Sequence[str]) -> Plan:
    """Resolve formats for a checkpoint.

    Args:
        source: the checkpoint.
        formats: to write; of several each gets a folder.

    Returns:
        The checkpoint's plan with an output for each format.

    Raises:
        FormatError: a format cannot hold the checkpoint, whatever its codes are.
    """
    outputs = []
    for name in formats:
        written = find_format(name)
        output = None
        for outcome in _resolve(source, written):
            if isinstance(outcome, Refusal):
                raise FormatError(outcome.reason)
            output = outcome
        assert output is not None
        folder = name.replace(":", "-") if len(formats) > 1 else ""
        outputs.append(dataclasses.replace(output, folder=folder))
    return dataclasses.replace(source.plan, outputs=tuple(outputs))


def _resolve(source: QuantizedSource, written: Format) -> Iterator[Refusal | OutputPlan]:
    """Give all that speaks against a format, and the output where it takes codes at all."""
    name = written.name
    if source.plan.dtype not in KEPT_DTYPES:
        yield Refusal(
            f"{source.folder / 'config.json'}: dtype {source.plan.dtype!r} is none that tensors "
            f"are kept in; write {', '.join(KEPT_DTYPES[:-1])} or {KEPT_DTYPES[-1]} there"
        )
        return
    outside = [layer for layer in source.plan.kept if layer.scheme is not None]
    layers = [layer for block in source.plan.blocks for layer in block.quantized] + outside
    schemes = [layer.scheme for layer in layers if layer.scheme is not None]
    if written.gguf_types:
        yield Refusal(
            f"{name} has grids of its own, which codes cannot be carried over to; quantize "
            "the 16-bit model with this format instead"
        )
        return
    try:
        output = plan_output(
            name, {most_common(schemes): ""}, dtype=source.plan.dtype, chosen=True, folder=""
        )
    except FormatError as error:
        yield Refusal(str(error))
        return
    layout = written.layout_for(set(schemes), _weights(layers))
    yield dataclasses.replace(output, packing=layout.name)
    reason = written.headless()
    for head in [layer.name for layer in outside if reason and is_head(layer.name)]:
        yield Refusal(f"layer {head} to {name}: {reason}", head)
    for layer in layers:
        assert layer.scheme is not None
        reason = layout.illegal(layer.scheme) or layout.why_not(layer.shape, layer.scheme)
        if reason:
            yield Refusal(f"layer {layer.name} ({layer.scheme}) to {name}: {reason}", layer.name)
    reason = written.unfit(layout, dict.fromkeys(schemes, ""))
    if reason:
        yield Refusal(f"{name} cannot hold {reason}")


def _weights(layers: Sequence[LayerPlan]) -> list[Weight]:
    return [Weight(x.shape, x.scheme) for x in layers if x.scheme is not None]


def _look_ahead(source: QuantizedSource, name: str) -> FormatOutlook:
    """Say what would become of a checkpoint in a format."""
    outcomes = list(_resolve(source, find_format(name)))
    refusals = tuple(outcome for outcome in outcomes if isinstance(outcome, Refusal))
    output = next((outcome for outcome in outcomes if isinstance(outcome, OutputPlan)), None)
    if output is None:
        return FormatOutlook(name, "", None, refusals)
    if refusals:
        return FormatOutlook(name, output.packing, None, refusals)
    size = _output_bytes(source, output)
    unknown = _unknown(source, layout_named(output.packing), name)
    return FormatOutlook(name, output.packing, size, unknown=tuple(unknown))


def _output_bytes(source: QuantizedSource, output: OutputPlan) -> int:
    """Return the bytes of all tensors that a conversion writes, as its own code lays them out."""
    headers, owned = source.headers, owned_tensors(source.packed)
    dense, total = layout_named(output.packing).dense, 0
    for name, layer in source.packed.items():
        matrix = packed_shape(name, layer, headers)
        plain = math.prod(matrix) * ITEM_BYTES[output.dtype]
        total += plain if dense else matrix_bytes(matrix, layer.scheme, output.packing)
    for name, (shape, dtype) in headers.items():
        if name not in owned:
            converted = is_floating(dtype) and output.dtype != source.plan.dtype
            # As in the conversion: what is wider than the rest is so on purpose.
            wide = dtype == "float32" and source.plan.dtype != "float32"
            kept = output.dtype if converted and not wide else dtype
            total += math.prod(shape) * ITEM_BYTES[kept]
    return total


def _unknown(source: QuantizedSource, layout: Layout, name: str) -> Iterator[str]:
    """Say what may yet stop the conversion, or change weights, that no header shows."""
    headers = source.headers
    ordered = [n for n in source.packed if any(f"{n}.{part}" in headers for part in _ORDERS)]
    if ordered and not layout.ordered:
        yield (
            f"{len(ordered)} layers have a g_idx: where it puts inputs out of order (desc_act), "
            f"{name} cannot hold it, and convert refuses without --allow-lossy"
        )
    lowest = [n for n, x in source.packed.items() if _may_be_below(x, layout.lowest_zero)]
    if lowest:
        yield (
            f"{len(lowest)} layers may have zero points below {layout.lowest_zero}, which {name} "
            "cannot hold: such groups move by a level; where they cannot, convert refuses without "
            "--allow-lossy"
        )


def _may_be_below(layer: PackedLayer, lowest_zero: int) -> bool:
    """Tell whether a layer's layout holds zero points below the least one of another."""
    return not layer.scheme.sym and layout_named(layer.packing).lowest_zero < lowest_zero


def _packed_parts(source: QuantizedSource, sizes: dict[str, int]) -> tuple[PackedPart, ...]:
    """Count the packed layers by scheme and layout."""
    headers = source.headers
    layers: Counter[tuple[Scheme, str]] = Counter()
    weights: Counter[tuple[Scheme, str]] = Counter()
    stored: Counter[tuple[Scheme, str]] = Counter()
    for name, layer in source.packed.items():
        kind = (layer.scheme, layer.packing)
        layers[kind] += 1
        weights[kind] += math.prod(packed_shape(name, layer, headers))
        stored[kind] += sum(sizes.get(n, 0) for n in owned_tensors({name: layer}))
    return tuple(
        PackedPart(str(scheme), packing, layers[kind], weights[kind], stored[kind])
        for kind in layers
        for scheme, packing in [kind]
    )
