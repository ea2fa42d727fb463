"""GGUF's blocks of 256 weights, whose groups have small integer scales under one float16.

With j an index into a block:

- q2_k: four planes of two bits in each half of a block, byte j of a half's 32 holds
  weights j, j + 32, j + 64, j + 96; scale and minimum of 16 weights share a byte;
- q3_k: low two bits as q2_k, the third in planes of one bit over 32 bytes, stored
  inverted in the sense that a set bit adds 4; six-bit scales, offset by 32;
- q4_k, q5_k: nibbles by pairs of groups, the fifth bits in planes of one bit; six-bit
  scales and minima in 12 bytes;
- q6_k: low nibbles and two-bit planes in each half; scales are signed bytes.

Packers take the parts of n blocks: codes uint8 [n, 256], scale float16 [n, 1], sub-scales
int8 [n, groups], and for q2_k, q4_k and q5_k the same two of the minimum. They return
pieces of their bytes, uint8 [n, …], in the order of the file; unpackers the reverse.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from autoround.formats.gguf.legacy import (
    Packer,
    Unpacker,
    from_nibbles,
    from_planes,
    half,
    nibbles,
    planes,
    raw,
)


def _two_bits(codes: Tensor) -> Tensor:
    """Pack two-bit codes: four planes of 32 in each half of a block."""
    return planes(codes.reshape(-1, 4, 32), 2).reshape(len(codes), 64)


def _from_two_bits(data: Tensor) -> Tensor:
    return from_planes(data.reshape(-1, 32), 2, 4).reshape(len(data), 256)


def _high_bits(bits: Tensor) -> Tensor:
    """Pack one bit of 256 weights: weight 32p + j is bit p of byte j."""
    return planes(bits.reshape(len(bits), 8, 32), 1)


def _from_high_bits(data: Tensor) -> Tensor:
    return from_planes(data, 1, 8).reshape(len(data), 256)


def _pairs(codes: Tensor) -> Tensor:
    """Pack the low nibbles of pairs of groups of 32, the even group low."""
    return planes((codes & 15).reshape(-1, 2, 32), 4).reshape(len(codes), 128)


def _from_pairs(data: Tensor) -> Tensor:
    return from_planes(data.reshape(-1, 32), 4, 2).reshape(len(data), 256)


def _six_bits(sub: Tensor, least: Tensor) -> Tensor:
    """Pack eight six-bit scales and minima into 12 bytes."""
    scale, minimum = sub.to(torch.uint8), least.to(torch.uint8)
    # As ggml's get_scale_min_k4 reads them: bytes 0 … 3 are scales 0 … 3 below the upper two bits
    # of scales 4 … 7, bytes 4 … 7 the same of minima; bytes 8 … 11 are the low four bits of both.
    first = scale[:, :4] | ((scale[:, 4:] >> 4) << 6)
    second = minimum[:, :4] | ((minimum[:, 4:] >> 4) << 6)
    third = (scale[:, 4:] & 15) | ((minimum[:, 4:] & 15) << 4)
    return torch.cat((first, second, third), dim=1)


def _from_six_bits(data: Tensor) -> tuple[Tensor, Tensor]:
    first, second, third = data[:, :4], data[:, 4:8], data[:, 8:]
    scale = torch.cat((first & 63, (third & 15) | ((first >> 6) << 4)), dim=1)
    minimum = torch.cat((second & 63, (third >> 4) | ((second >> 6) << 4)), dim=1)
    return scale.to(torch.int8), minimum.to(torch.int8)


def _pack_q2_k(
    codes: Tensor, scale: Tensor, sub: Tensor, minimum: Tensor, least: Tensor
) -> list[Tensor]:
    held = sub.to(torch.uint8) | (least.to(torch.uint8) << 4)
    return [held, _two_bits(codes), raw(scale), raw(minimum)]


def _unpack_q2_k(data: Tensor) -> list[Tensor]:
    held = data[:, :16]
    return [
        _from_two_bits(data[:, 16:80]),
        half(data[:, 80:82]),
        (held & 15).to(torch.int8),
        half(data[:, 82:84]),
        (held >> 4).to(torch.int8),
    ]


def _pack_q3_k(codes: Tensor, scale: Tensor, sub: Tensor) -> list[Tensor]:
    # Signed scales are stored from 0: -32 … 31 in six bits.
    shifted = (sub + 32).to(torch.uint8)
    # Upper two bits: byte j of four holds those of scales j, j + 4, j + 8 and j + 12.
    high = planes((shifted >> 4).reshape(-1, 4, 4), 2)
    return [_high_bits(codes >> 2), _two_bits(codes & 3), nibbles(shifted), high, raw(scale)]


def _unpack_q3_k(data: Tensor) -> list[Tensor]:
    codes = _from_two_bits(data[:, 32:96]) | (_from_high_bits(data[:, :32]) << 2)
    high = from_planes(data[:, 104:108], 2, 4).reshape(-1, 16)
    shifted = from_nibbles(data[:, 96:104]) | (high << 4)
    return [codes, half(data[:, 108:110]), shifted.to(torch.int8) - 32]


def _pack_q4_k(
    codes: Tensor, scale: Tensor, sub: Tensor, minimum: Tensor, least: Tensor
) -> list[Tensor]:
    return [raw(scale), raw(minimum), _six_bits(sub, least), _pairs(codes)]


def _unpack_q4_k(data: Tensor) -> list[Tensor]:
    sub, least = _from_six_bits(data[:, 4:16])
    return [_from_pairs(data[:, 16:]), half(data[:, :2]), sub, half(data[:, 2:4]), least]


def _pack_q5_k(
    codes: Tensor, scale: Tensor, sub: Tensor, minimum: Tensor, least: Tensor
) -> list[Tensor]:
    held = _six_bits(sub, least)
    return [raw(scale), raw(minimum), held, _high_bits(codes >> 4), _pairs(codes)]


def _unpack_q5_k(data: Tensor) -> list[Tensor]:
    sub, least = _from_six_bits(data[:, 4:16])
    codes = _from_pairs(data[:, 48:]) | (_from_high_bits(data[:, 16:48]) << 4)
    return [codes, half(data[:, :2]), sub, half(data[:, 2:4]), least]


def _pack_q6_k(codes: Tensor, scale: Tensor, sub: Tensor) -> list[Tensor]:
    # In a half of 128 weights byte j of 64 holds j and j + 64, unlike the pairs of q4_k.
    low = planes((codes & 15).reshape(-1, 2, 64), 4).reshape(len(codes), 128)
    high = planes((codes >> 4).reshape(-1, 4, 32), 2).reshape(len(codes), 64)
    return [low, high, sub.view(torch.uint8), raw(scale)]


def _unpack_q6_k(data: Tensor) -> list[Tensor]:
    low = from_planes(data[:, :128].reshape(-1, 64), 4, 2).reshape(len(data), 256)
    high = from_planes(data[:, 128:192].reshape(-1, 32), 2, 4).reshape(len(data), 256)
    return [low | (high << 4), half(data[:, 208:]), data[:, 192:208].view(torch.int8)]


PACKERS: Mapping[str, Packer] = {
    "q2_k": _pack_q2_k,
    "q3_k": _pack_q3_k,
    "q4_k": _pack_q4_k,
    "q5_k": _pack_q5_k,
    "q6_k": _pack_q6_k,
}
UNPACKERS: Mapping[str, Unpacker] = {
    "q2_k": _unpack_q2_k,
    "q3_k": _unpack_q3_k,
    "q4_k": _unpack_q4_k,
    "q5_k": _unpack_q5_k,
    "q6_k": _unpack_q6_k,
}
