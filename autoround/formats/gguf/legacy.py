"""GGUF's blocks of 32 weights, and the arithmetic of bits that all its blocks share.

With j an index into a block:

- q4_0, q4_1: nibbles, byte j holds weights j (low) and j + 16 (high);
- q5_0, q5_1: the same for the low four bits, and bit j of a 32-bit word is the fifth;
- q8_0: one signed byte a weight.

The scale comes first, then the minimum of q4_1 and q5_1, which the file adds and we
subtract. Packers take the parts of n blocks, codes uint8 [n, 32] and float16 [n, 1], and
return pieces of their bytes, uint8 [n, …], in the order of the file; unpackers the reverse.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor

Packer: TypeAlias = Callable[..., list[Tensor]]
Unpacker: TypeAlias = Callable[[Tensor], list[Tensor]]


def raw(values: Tensor) -> Tensor:
    """Return the bytes of float16 values.

    Args:
        values: float16 [n, 1].

    Returns:
        uint8 [n, 2], in the machine's byte order.
    """
    # A copy: the view as bytes needs values that lie next to each other.
    return values.clone(memory_format=torch.contiguous_format).view(torch.uint8)


def half(data: Tensor) -> Tensor:
    """Return the float16 values of bytes.

    Args:
        data: uint8 [n, 2].

    Returns:
        float16 [n, 1].
    """
    # A copy, because bytes of a file need not lie where float16 values may.
    return data.clone(memory_format=torch.contiguous_format).view(torch.float16)


def nibbles(codes: Tensor) -> Tensor:
    """Pack the low four bits of two halves.

    Args:
        codes: uint8 [n, 2k].

    Returns:
        uint8 [n, k]; byte j holds code j in its low and code j + k in its high bits.
    """
    low, high = (codes & 15).chunk(2, dim=1)
    return low | (high << 4)


def from_nibbles(data: Tensor) -> Tensor:
    """Undo :func:`nibbles`.

    Args:
        data: uint8 [n, k].

    Returns:
        uint8 [n, 2k].
    """
    return torch.cat((data & 15, data >> 4), dim=1)


def planes(codes: Tensor, bits: int) -> Tensor:
    """Pack planes of a few bits.

    Args:
        codes: uint8 [n, planes, k], each value of ``bits`` bits.
        bits: of a plane; planes times bits are at most 8.

    Returns:
        uint8 [n, k], plane p at bit p * bits.
    """
    out = codes[:, 0].clone()
    for plane in range(1, codes.shape[1]):
        out |= codes[:, plane] << (plane * bits)
    return out


def from_planes(data: Tensor, bits: int, count: int) -> Tensor:
    """Undo :func:`planes`.

    Args:
        data: uint8 [n, k].
        bits: of a plane.
        count: planes.

    Returns:
        uint8 [n, count, k].
    """
    mask = 2**bits - 1
    return torch.stack([(data >> (plane * bits)) & mask for plane in range(count)], dim=1)


def _fifth(codes: Tensor) -> Tensor:
    """Pack the fifth bits of 32 weights into four bytes, weight j at bit j."""
    # [n, 4 bytes, 8 bits]: bit b of byte a is weight 8a + b, a word read little-endian.
    bits = (codes >> 4).reshape(len(codes), 4, 8)
    return planes(bits.transpose(1, 2), 1)


def _from_fifth(data: Tensor) -> Tensor:
    bits = torch.stack([(data >> j) & 1 for j in range(8)], dim=2)
    return bits.reshape(len(data), 32)


def _pack_q4_0(codes: Tensor, scale: Tensor) -> list[Tensor]:
    return [raw(scale), nibbles(codes)]


def _pack_q4_1(codes: Tensor, scale: Tensor, minimum: Tensor) -> list[Tensor]:
    return [raw(scale), raw(-minimum), nibbles(codes)]


def _pack_q5_0(codes: Tensor, scale: Tensor) -> list[Tensor]:
    return [raw(scale), _fifth(codes), nibbles(codes)]


def _pack_q5_1(codes: Tensor, scale: Tensor, minimum: Tensor) -> list[Tensor]:
    return [raw(scale), raw(-minimum), _fifth(codes), nibbles(codes)]


def _pack_q8_0(codes: Tensor, scale: Tensor) -> list[Tensor]:
    # Flipping the top bit takes 128 away: codes from 0 become signed bytes.
    return [raw(scale), codes ^ 128]


def _unpack_q4_0(data: Tensor) -> list[Tensor]:
    return [from_nibbles(data[:, 2:]), half(data[:, :2])]


def _unpack_q4_1(data: Tensor) -> list[Tensor]:
    return [from_nibbles(data[:, 4:]), half(data[:, :2]), -half(data[:, 2:4])]


def _unpack_q5_0(data: Tensor) -> list[Tensor]:
    codes = from_nibbles(data[:, 6:]) | (_from_fifth(data[:, 2:6]) << 4)
    return [codes, half(data[:, :2])]


def _unpack_q5_1(data: Tensor) -> list[Tensor]:
    codes = from_nibbles(data[:, 8:]) | (_from_fifth(data[:, 4:8]) << 4)
    return [codes, half(data[:, :2]), -half(data[:, 2:4])]


def _unpack_q8_0(data: Tensor) -> list[Tensor]:
    return [data[:, 2:] ^ 128, half(data[:, :2])]


PACKERS: Mapping[str, Packer] = {
    "q4_0": _pack_q4_0,
    "q4_1": _pack_q4_1,
    "q5_0": _pack_q5_0,
    "q5_1": _pack_q5_1,
    "q8_0": _pack_q8_0,
}
UNPACKERS: Mapping[str, Unpacker] = {
    "q4_0": _unpack_q4_0,
    "q4_1": _unpack_q4_1,
    "q5_0": _unpack_q5_0,
    "q5_1": _unpack_q5_1,
    "q8_0": _unpack_q8_0,
}
