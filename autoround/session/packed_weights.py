"""Finished weights packed where they are, and brought to the host once: for record and files.

A weight is packed in the layout of the first format of its pass, all experts of a layer together,
unpacked there again and compared. Formats without such a layout (dense weights, GGUF, those of
other packages) have records of codes in their bits, and pack by themselves.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from autoround.core.grids.gguf_types import GGUF_TYPES
from autoround.core.packing import no_room, out_of_range, pack_rows_unchecked, unpack_rows
from autoround.core.word_counts import BLOCK
from autoround.errors import VerificationError
from autoround.formats.faults import Fault, differences, raise_present
from autoround.formats.gguf.blocks import GgufTensor
from autoround.formats.registry import layout_named
from autoround.formats.stacked import StackedLayout, part_of
from autoround.formats.written import stack_matrices, unstack_matrices
from autoround.session.block_output import BlockOutput, PackedWeight, QuantizedWeight
from autoround.session.joined_tensors import cut_portions, join_tensors, split_tensors
from autoround.types import LayerPlan, OutputPlan, QuantizedTensor, Scheme

#: What a weight may be whose codes are packed by themselves.
KINDS: Mapping[str, type[QuantizedWeight]] = {"plain": QuantizedTensor, "gguf": GgufTensor}
#: Codes that are packed at a time: on a CPU, where that is about one expert, and on other devices.
CHUNK_CODES, DEVICE_CHUNK_CODES = 1 << 22, 1 << 26


def pack_output(
    output: BlockOutput, layers: Mapping[str, LayerPlan], first: OutputPlan
) -> BlockOutput:
    """Return a finished unit with its weights packed, too.

    Args:
        output: the unit.
        layers: the plan of each of its quantized layers, by name.
        first: the format in whose layout they are packed.

    Raises:
        VerificationError: a weight does not come back as it was.
        FormatError: the layout cannot hold a weight.
    """
    return replace(output, packed=pack_weights(output.layers, layers, first.packing))


def packs_at_once(packing: str) -> bool:
    """Tell whether a layout is packed here, for the record and for files in one.

    Args:
        packing: name of the layout.
    """
    return isinstance(layout_named(packing), StackedLayout)


def pack_weights(
    weights: Mapping[str, QuantizedWeight],
    layers: Mapping[str, LayerPlan],
    packing: str,
    *,
    chunk: int = 0,
) -> dict[str, PackedWeight]:
    """Pack weights where they are; the host reads their device once, and copies packed bytes.

    Args:
        weights: by layer, on one device.
        layers: the plan of each; of codes in their bits none is asked for.
        packing: name of the layout; one that does not pack at once gives codes in their bits.
        chunk: codes of stacked experts to pack at a time; 0 for what suits the device.

    Returns:
        The packed weights by layer, on the CPU.

    Raises:
        VerificationError: a weight does not come back as it was.
        FormatError: the layout cannot hold a weight.
    """
    layout = layout_named(packing) if packing else None
    made: dict[str, PackedWeight] = {}
    faults: list[Fault] = []
    for name, weight in weights.items():
        if isinstance(layout, StackedLayout) and isinstance(weight, QuantizedTensor):
            made[name], possible = _pack_stacked(weight, layers[name], layout, chunk)
        else:
            made[name], possible = _pack_codes_of(weight)
        faults += possible
    by_device = _by_device(faults)
    flags = [torch.stack([fault.present for fault in there]) for there in by_device]
    parts = [(name, part) for name, packed in made.items() for part in packed.tensors]
    # What is wrong comes with what was packed: the device is waited for once.
    tensors = to_host([*(made[name].tensors[part] for name, part in parts), *flags])
    for there, present in zip(by_device, tensors[len(parts) :], strict=True):
        raise_present(there, present)
    on_host: dict[str, dict[str, Tensor]] = {name: {} for name in made}
    for (name, part), tensor in zip(parts, tensors[: len(parts)], strict=True):
        on_host[name][part] = tensor
    return {name: replace(packed, tensors=on_host[name]) for name, packed in made.items()}


def unpack_weight(packed: PackedWeight) -> QuantizedWeight:
    """Undo :func:`pack_weights` for one weight.

    Args:
        packed: on any device.

    Returns:
        The weight as it was.
    """
    facts, tensors = packed.facts, packed.tensors
    if not packed.packing:
        return _unpack_codes_of(tensors, facts)
    layout = layout_named(packed.packing)
    if not isinstance(layout, StackedLayout):
        raise TypeError(f"{packed.packing} is no layout that records have")
    scheme = Scheme(**facts["scheme"])
    rows, columns = (int(size) for size in facts["shape"])
    layer = layout.take_apart(tensors, scheme, columns)
    if facts["experts"]:
        experts, interleaved = int(facts["experts"]), bool(facts["interleaved"])
        layer = unstack_matrices(layer, experts, interleaved=interleaved)
    if layer.codes.shape != (rows, columns):
        raise ValueError(f"{tuple(layer.codes.shape)} where {(rows, columns)} was packed")
    scale, zero = layer.scale, layer.zero
    if facts["shared"]:
        scale, zero = scale[:1], zero[:1]
    return QuantizedTensor(layer.codes.contiguous(), scale.contiguous(), zero.contiguous(), scheme)


def to_host(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return tensors on the CPU; those of a device come in few copies, as views of what came.

    Args:
        tensors: of any dtypes and shapes, on one device; what is on the CPU is returned itself.
    """
    done: dict[int, Tensor] = {n: t for n, t in enumerate(tensors) if t.device.type == "cpu"}
    rest = [n for n in range(len(tensors)) if n not in done]
    for portion in cut_portions([tensors[n] for n in rest]):
        numbers = [rest[n] for n in portion]
        joined = join_tensors([tensors[n] for n in numbers]).to("cpu")
        headers = [(tensors[n].shape, tensors[n].dtype) for n in numbers]
        done.update(zip(numbers, split_tensors(joined, headers), strict=True))
    return [done[n] for n in range(len(tensors))]


def _by_device(faults: Sequence[Fault]) -> list[list[Fault]]:
    """Return faults apart by the device that their flags are on."""
    devices = dict.fromkeys(fault.present.device for fault in faults)
    return [[fault for fault in faults if fault.present.device == device] for device in devices]


def _pack_stacked(
    weight: QuantizedTensor, layer: LayerPlan, layout: StackedLayout, chunk: int
) -> tuple[PackedWeight, list[Fault]]:
    """Pack a weight in a layout, and compare what it unpacks to; nothing is read."""
    facts = {
        "scheme": dataclasses.asdict(weight.scheme),
        "shape": list(weight.codes.shape),
        "shared": weight.scale.shape[0] == 1 and weight.codes.shape[0] != 1,
        "experts": layer.experts,
        "interleaved": layer.interleaved,
    }
    stacked = stack_matrices(layer, weight)
    error = VerificationError(f"layer {layer.name} does not come back from {layout.name} as it was")
    parts: list[dict[str, Tensor]] = []
    faults: list[Fault] = []
    for piece in _pieces(stacked, chunk):
        tensors = layout.lay_out(piece)
        parts.append(tensors)
        if piece.codes.numel():
            back = layout.take_apart(tensors, piece.scheme, piece.codes.shape[-1])
            faults += [*layout.faults(piece), *differences(piece, back, error)]
    if len(parts) == 1:
        return PackedWeight(layout.name, parts[0], facts), faults
    whole = {part: torch.cat([tensors[part] for tensors in parts]) for part in parts[0]}
    return PackedWeight(layout.name, whole, facts), faults


def _pieces(stacked: QuantizedTensor, chunk: int) -> Iterator[QuantizedTensor]:
    """Yield the matrices of a weight, as many at a time as temporaries may take."""
    if stacked.codes.dim() == 2:
        yield stacked
        return
    count = len(stacked.codes)
    on_host = stacked.codes.device.type == "cpu"
    most = chunk or (CHUNK_CODES if on_host else DEVICE_CHUNK_CODES)
    step = max(1, most // max(1, stacked.codes[0].numel()))
    for start in range(0, count, step):
        yield part_of(stacked, slice(start, start + step))


def _pack_codes_of(weight: QuantizedWeight) -> tuple[PackedWeight, list[Fault]]:
    """Pack the codes of a weight in their bits, and leave its other parts as they are."""
    facts: dict[str, Any] = {"held": next(k for k, v in KINDS.items() if isinstance(weight, v))}
    tensors: dict[str, Tensor] = {}
    for field in dataclasses.fields(weight):
        value = getattr(weight, field.name)
        if isinstance(value, Tensor):
            tensors[field.name] = value
        else:
            facts[field.name] = dataclasses.asdict(value) if isinstance(value, Scheme) else value
    codes = weight.codes
    plain = isinstance(weight, QuantizedTensor)
    bits = weight.scheme.bits if plain else GGUF_TYPES[weight.kind].bits  # type: ignore[union-attr]
    facts |= {"shape": list(codes.shape), "bits": bits}
    faults = []
    if codes.numel():
        faults.append(Fault(out_of_range(codes, bits), ValueError(no_room(bits))))
    tensors["codes"] = pack_codes(codes, bits)
    return PackedWeight("", tensors, facts), faults


def _unpack_codes_of(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> QuantizedWeight:
    """Undo :func:`_pack_codes_of`."""
    kind = KINDS[facts["held"]]
    parts: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        value = tensors.get(field.name, facts.get(field.name))
        if field.name == "codes":
            value = unpack_codes(tensors["codes"], facts["bits"], shape=facts["shape"])
        elif field.name == "scheme":
            value = Scheme(**facts["scheme"])
        parts[field.name] = value
    return kind(**parts)


def pack_codes(codes: Tensor, bits: int) -> Tensor:
    """Pack codes of any shape, without a look at their values.

    Args:
        codes: uint8, values 0 … 2**bits - 1. bits: of a code.

    Returns:
        int32 [bits, n / 32], the last words filled up with zeros.
    """
    flat = codes.reshape(-1)
    short = -flat.numel() % BLOCK
    if short:
        flat = torch.cat([flat, flat.new_zeros(short)])
    return pack_rows_unchecked(flat.reshape(BLOCK, -1), bits)


def unpack_codes(words: Tensor, bits: int, *, shape: list[int]) -> Tensor:
    """Undo :func:`pack_codes`.

    Args:
        words: int32 [bits, n / 32]. bits: of a code. shape: of the codes.

    Returns:
        uint8 of the shape.
    """
    count = int(torch.tensor(shape).prod())
    return unpack_rows(words, bits).reshape(-1)[:count].reshape(shape).clone()
