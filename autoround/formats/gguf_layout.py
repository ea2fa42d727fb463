"""The blocks of GGUF: from carried integers to the bytes of ggml's types, and back.

A row is a sequence of blocks of 32 or 256 weights. With j an index into a block:

- q4_0, q4_1: nibbles, byte j holds weights j (low) and j + 16 (high);
- q5_0, q5_1: the same for the low four bits, and bit j of a 32-bit word is the fifth;
- q8_0: one signed byte a weight;
- q2_k: four planes of two bits in each half of a block, byte j of a half's 32 holds
  weights j, j + 32, j + 64, j + 96; scale and minimum of 16 weights share a byte;
- q3_k: low two bits as q2_k, the third in planes of one bit over 32 bytes, stored
  inverted in the sense that a set bit adds 4; six-bit scales, offset by 32;
- q4_k, q5_k: nibbles by pairs of groups, the fifth bits in planes of one bit; six-bit
  scales and minima in 12 bytes;
- q6_k: low nibbles and two-bit planes in each half; scales are signed bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from autoround.errors import FormatError


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One quantized weight as a block type of GGUF holds it.

    kind: the type, one of KINDS. codes: uint8 [out, in], 0 … 2**bits - 1; types without a
    minimum count levels from ``code - 2**(bits-1)``.
    scale: float16 [out, blocks]. sub_scale: int8 [out, groups], k-quants only.
    minimum: float16 [out, blocks], what is subtracted; None for types without one.
    sub_minimum: int8 [out, groups]; None where there is no minimum, or one each block.
    """

    kind: str
    codes: Tensor
    scale: Tensor
    sub_scale: Tensor | None = None
    minimum: Tensor | None = None
    sub_minimum: Tensor | None = None


class Kind(NamedTuple):
    """One block type: weights and bytes of a block, weights of a group, and ggml's number.

    group: 0 where the block is the group. signed: levels are counted from the middle.
    """

    block: int
    bytes: int
    bits: int
    group: int
    signed: bool
    number: int


KINDS = {
    "q4_0": Kind(32, 18, 4, 0, True, 2),
    "q4_1": Kind(32, 20, 4, 0, False, 3),
    "q5_0": Kind(32, 22, 5, 0, True, 6),
    "q5_1": Kind(32, 24, 5, 0, False, 7),
    "q8_0": Kind(32, 34, 8, 0, True, 8),
    "q2_k": Kind(256, 84, 2, 16, False, 10),
    "q3_k": Kind(256, 110, 3, 16, True, 11),
    "q4_k": Kind(256, 144, 4, 32, False, 12),
    "q5_k": Kind(256, 176, 5, 32, False, 13),
    "q6_k": Kind(256, 210, 6, 16, True, 14),
}


def bytes_per_row(kind: str, columns: int) -> int:
    """Return the bytes of a row of ``columns`` weights.

    Raises:
        FormatError: the type is unknown, or its blocks do not fit the row.
    """
    reason = why_not(columns, kind)
    if reason:
        raise FormatError(reason)
    return columns // KINDS[kind].block * KINDS[kind].bytes


def why_not(columns: int, kind: str) -> str:
    """Return why rows of ``columns`` weights cannot be of a type, or an empty text."""
    if kind not in KINDS:
        return f"no block type is named {kind!r}; legal: {', '.join(KINDS)}"
    if columns % KINDS[kind].block:
        return f"rows of {columns} weights are no multiple of {kind}'s {KINDS[kind].block}"
    return ""


def pack(layer: GgufTensor) -> Tensor:
    """Return the blocks of a weight: uint8 [out, bytes of a row].

    Raises:
        FormatError: a part is missing or has another shape than the type's.
    """
    rows, columns = layer.codes.shape
    bytes_per_row(layer.kind, columns)
    kind = KINDS[layer.kind]
    count = rows * columns // kind.block
    _check(layer, count)
    codes = layer.codes.reshape(count, kind.block)
    parts = _PACKERS[layer.kind](codes, _Scales(layer, count))
    return torch.cat(parts, dim=1).reshape(rows, -1)


def unpack(data: Tensor, kind: str) -> GgufTensor:
    """Read a weight back from its blocks.

    data: uint8 [out, bytes of a row].

    Raises:
        FormatError: the rows are no whole number of blocks.
    """
    if kind not in KINDS:
        raise FormatError(why_not(0, kind))
    held = KINDS[kind]
    if data.dtype != torch.uint8 or data.ndim != 2 or data.shape[1] % held.bytes:
        raise FormatError(
            f"{kind}: rows of {tuple(data.shape)} bytes are no multiple of a block's {held.bytes}"
        )
    rows = data.shape[0]
    blocks = data.reshape(-1, held.bytes)
    found = _UNPACKERS[kind](blocks)
    flat = [None if part is None else part.reshape(rows, -1) for part in found]
    assert flat[0] is not None
    assert flat[1] is not None
    return GgufTensor(kind, flat[0], flat[1], *flat[2:])


def dequantize(layer: GgufTensor) -> Tensor:
    """Return the weights, float32 [out, in], in the order of operations of ggml."""
    kind = KINDS[layer.kind]
    rows, columns = layer.codes.shape
    width = kind.group or kind.block
    levels = layer.codes.reshape(rows, -1, width).float()
    if kind.signed:
        levels -= 2 ** (kind.bits - 1)
    scale = _spread(layer.scale, layer.sub_scale, rows)
    if layer.minimum is None:
        return (levels * scale).reshape(rows, columns)
    minimum = _spread(layer.minimum, layer.sub_minimum, rows)
    return (levels * scale - minimum).reshape(rows, columns)


def _spread(whole: Tensor, sub: Tensor | None, rows: int) -> Tensor:
    if sub is None:
        return whole.float().reshape(rows, -1, 1)
    each = sub.reshape(rows, whole.shape[1], -1).float()
    return (whole.float().unsqueeze(-1) * each).reshape(rows, -1, 1)


class _Scales:
    """The scales of a weight, cut into blocks."""

    def __init__(self, layer: GgufTensor, count: int) -> None:
        self.scale = _raw(layer.scale, count)
        empty = torch.empty(0)
        self.sub = empty if layer.sub_scale is None else layer.sub_scale.reshape(count, -1)
        self.minimum = empty if layer.minimum is None else _raw(layer.minimum, count)
        self.negative = empty if layer.minimum is None else _raw(-layer.minimum, count)
        self.least = empty if layer.sub_minimum is None else layer.sub_minimum.reshape(count, -1)


def _raw(values: Tensor, count: int) -> Tensor:
    """Return the bytes of float16 values: uint8 [count, 2]."""
    return values.reshape(count, 1).contiguous().view(torch.uint8)


def _half(data: Tensor) -> Tensor:
    return data.contiguous().view(torch.float16)


def _check(layer: GgufTensor, count: int) -> None:
    kind = KINDS[layer.kind]
    groups = count * (kind.block // kind.group) if kind.group else None
    minimum = None if kind.signed else count
    wanted = {
        "scale": count,
        "sub_scale": groups,
        "minimum": minimum,
        "sub_minimum": None if kind.signed else groups,
    }
    for name, size in wanted.items():
        part = getattr(layer, name)
        if (None if part is None else part.numel()) != size:
            raise FormatError(f"{layer.kind}: {name} should have {size} values")


# Blocks of 32


def _nibbles(codes: Tensor) -> Tensor:
    """Pack the low four bits of two halves: [n, 2k] to [n, k]."""
    low, high = (codes & 15).chunk(2, dim=1)
    return low | (high << 4)


def _from_nibbles(data: Tensor) -> Tensor:
    return torch.cat((data & 15, data >> 4), dim=1)


def _fifth(codes: Tensor) -> Tensor:
    """Pack the fifth bits of 32 weights into four bytes, weight j at bit j."""
    bits = (codes >> 4).reshape(len(codes), 4, 8)
    return _planes(bits.transpose(1, 2), 1)


def _from_fifth(data: Tensor) -> Tensor:
    bits = torch.stack([(data >> j) & 1 for j in range(8)], dim=2)
    return bits.reshape(len(data), 32)


def _planes(codes: Tensor, bits: int) -> Tensor:
    """Pack planes of a few bits: [n, planes, k] to [n, k], plane p at bit p * bits."""
    out = codes[:, 0].clone()
    for plane in range(1, codes.shape[1]):
        out |= codes[:, plane] << (plane * bits)
    return out


def _from_planes(data: Tensor, bits: int, count: int) -> Tensor:
    mask = 2**bits - 1
    return torch.stack([(data >> (plane * bits)) & mask for plane in range(count)], dim=1)


def _pack_q4_0(codes: Tensor, scales: _Scales) -> list[Tensor]:
    return [scales.scale, _nibbles(codes)]


def _pack_q4_1(codes: Tensor, scales: _Scales) -> list[Tensor]:
    return [scales.scale, scales.negative, _nibbles(codes)]


def _pack_q5_0(codes: Tensor, scales: _Scales) -> list[Tensor]:
    return [scales.scale, _fifth(codes), _nibbles(codes)]


def _pack_q5_1(codes: Tensor, scales: _Scales) -> list[Tensor]:
    return [scales.scale, scales.negative, _fifth(codes), _nibbles(codes)]


def _pack_q8_0(codes: Tensor, scales: _Scales) -> list[Tensor]:
    return [scales.scale, codes ^ 128]


Unpacked = list[Tensor | None]


def _unpack_q4_0(data: Tensor) -> Unpacked:
    return [_from_nibbles(data[:, 2:]), _half(data[:, :2])]


def _unpack_q4_1(data: Tensor) -> Unpacked:
    return [_from_nibbles(data[:, 4:]), _half(data[:, :2]), None, -_half(data[:, 2:4]), None]


def _unpack_q5_0(data: Tensor) -> Unpacked:
    codes = _from_nibbles(data[:, 6:]) | (_from_fifth(data[:, 2:6]) << 4)
    return [codes, _half(data[:, :2])]


def _unpack_q5_1(data: Tensor) -> Unpacked:
    codes = _from_nibbles(data[:, 8:]) | (_from_fifth(data[:, 4:8]) << 4)
    return [codes, _half(data[:, :2]), None, -_half(data[:, 2:4]), None]


def _unpack_q8_0(data: Tensor) -> Unpacked:
    return [data[:, 2:] ^ 128, _half(data[:, :2])]


# Blocks of 256


def _two_bits(codes: Tensor) -> Tensor:
    """Pack two-bit codes: four planes of 32 in each half of a block."""
    halves = codes.reshape(-1, 4, 32)
    return _planes(halves, 2).reshape(len(codes), 64)


def _from_two_bits(data: Tensor) -> Tensor:
    return _from_planes(data.reshape(-1, 32), 2, 4).reshape(len(data), 256)


def _high_bits(bits: Tensor) -> Tensor:
    """Pack one bit of 256 weights: weight 32p + j is bit p of byte j."""
    return _planes(bits.reshape(len(bits), 8, 32), 1)


def _from_high_bits(data: Tensor) -> Tensor:
    return _from_planes(data, 1, 8).reshape(len(data), 256)


def _pack_q2_k(codes: Tensor, scales: _Scales) -> list[Tensor]:
    held = scales.sub.to(torch.uint8) | (scales.least.to(torch.uint8) << 4)
    return [held, _two_bits(codes), scales.scale, scales.minimum]


def _unpack_q2_k(data: Tensor) -> Unpacked:
    held = data[:, :16]
    return [
        _from_two_bits(data[:, 16:80]),
        _half(data[:, 80:82]),
        (held & 15).to(torch.int8),
        _half(data[:, 82:84]),
        (held >> 4).to(torch.int8),
    ]


def _pack_q3_k(codes: Tensor, scales: _Scales) -> list[Tensor]:
    sub = (scales.sub.to(torch.int16) + 32).to(torch.uint8)
    low = _nibbles(sub)
    high = _planes((sub >> 4).reshape(-1, 4, 4), 2)
    return [_high_bits(codes >> 2), _two_bits(codes & 3), low, high, scales.scale]


def _unpack_q3_k(data: Tensor) -> Unpacked:
    codes = _from_two_bits(data[:, 32:96]) | (_from_high_bits(data[:, :32]) << 2)
    high = _from_planes(data[:, 104:108], 2, 4).reshape(-1, 16)
    sub = _from_nibbles(data[:, 96:104]) | (high << 4)
    return [codes, _half(data[:, 108:110]), (sub.to(torch.int16) - 32).to(torch.int8), None, None]


def _six_bits(sub: Tensor, least: Tensor) -> Tensor:
    """Pack eight six-bit scales and minima into 12 bytes."""
    scale, minimum = sub.to(torch.uint8), least.to(torch.uint8)
    first = (scale[:, :4] & 63) | ((scale[:, 4:] >> 4) << 6)
    second = (minimum[:, :4] & 63) | ((minimum[:, 4:] >> 4) << 6)
    third = (scale[:, 4:] & 15) | ((minimum[:, 4:] & 15) << 4)
    return torch.cat((first, second, third), dim=1)


def _from_six_bits(data: Tensor) -> tuple[Tensor, Tensor]:
    first, second, third = data[:, :4], data[:, 4:8], data[:, 8:]
    scale = torch.cat((first & 63, (third & 15) | ((first >> 6) << 4)), dim=1)
    minimum = torch.cat((second & 63, (third >> 4) | ((second >> 6) << 4)), dim=1)
    return scale.to(torch.int8), minimum.to(torch.int8)


def _pairs(codes: Tensor) -> Tensor:
    """Pack the low nibbles of pairs of groups of 32, the even group low."""
    return _planes((codes & 15).reshape(-1, 2, 32), 4).reshape(len(codes), 128)


def _from_pairs(data: Tensor) -> Tensor:
    return _from_planes(data.reshape(-1, 32), 4, 2).reshape(len(data), 256)


def _pack_q4_k(codes: Tensor, scales: _Scales) -> list[Tensor]:
    held = _six_bits(scales.sub, scales.least)
    return [scales.scale, scales.minimum, held, _pairs(codes)]


def _unpack_q4_k(data: Tensor) -> Unpacked:
    sub, least = _from_six_bits(data[:, 4:16])
    return [_from_pairs(data[:, 16:]), _half(data[:, :2]), sub, _half(data[:, 2:4]), least]


def _pack_q5_k(codes: Tensor, scales: _Scales) -> list[Tensor]:
    held = _six_bits(scales.sub, scales.least)
    return [scales.scale, scales.minimum, held, _high_bits(codes >> 4), _pairs(codes)]


def _unpack_q5_k(data: Tensor) -> Unpacked:
    sub, least = _from_six_bits(data[:, 4:16])
    codes = _from_pairs(data[:, 48:]) | (_from_high_bits(data[:, 16:48]) << 4)
    return [codes, _half(data[:, :2]), sub, _half(data[:, 2:4]), least]


def _pack_q6_k(codes: Tensor, scales: _Scales) -> list[Tensor]:
    halves = codes.reshape(-1, 128)
    low = _planes((halves & 15).reshape(-1, 2, 64), 4).reshape(len(codes), 128)
    high = _planes((halves >> 4).reshape(-1, 4, 32), 2).reshape(len(codes), 64)
    return [low, high, scales.sub.to(torch.int8).contiguous().view(torch.uint8), scales.scale]


def _unpack_q6_k(data: Tensor) -> Unpacked:
    low = _from_planes(data[:, :128].reshape(-1, 64), 4, 2).reshape(len(data), 256)
    high = _from_planes(data[:, 128:192].reshape(-1, 32), 2, 4).reshape(len(data), 256)
    sub = data[:, 192:208].contiguous().view(torch.int8)
    return [low | (high << 4), _half(data[:, 208:210]), sub, None, None]


_PACKERS: dict[str, Callable[[Tensor, _Scales], list[Tensor]]] = {
    "q4_0": _pack_q4_0,
    "q4_1": _pack_q4_1,
    "q5_0": _pack_q5_0,
    "q5_1": _pack_q5_1,
    "q8_0": _pack_q8_0,
    "q2_k": _pack_q2_k,
    "q3_k": _pack_q3_k,
    "q4_k": _pack_q4_k,
    "q5_k": _pack_q5_k,
    "q6_k": _pack_q6_k,
}
_UNPACKERS: dict[str, Callable[[Tensor], Unpacked]] = {
    "q4_0": _unpack_q4_0,
    "q4_1": _unpack_q4_1,
    "q5_0": _unpack_q5_0,
    "q5_1": _unpack_q5_1,
    "q8_0": _unpack_q8_0,
    "q2_k": _unpack_q2_k,
    "q3_k": _unpack_q3_k,
    "q4_k": _unpack_q4_k,
    "q5_k": _unpack_q5_k,
    "q6_k": _unpack_q6_k,
}
