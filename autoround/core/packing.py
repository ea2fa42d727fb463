"""n-bit integers packed into 32-bit words as one little-endian bit stream.

Blocks of 32 values fill ``bits`` words: value k of a block occupies bits
``k*bits … (k+1)*bits - 1`` of the stream. For widths that divide 32 this is the usual
``32 / bits`` values a word; for the others (3, 5, 6, 7) values straddle words.
"""

from __future__ import annotations

import torch
from torch import Tensor

from autoround.core.word_counts import BLOCK, packed_length, packed_rows


def pack_rows(codes: Tensor, bits: int) -> Tensor:
    """Pack integers along the axis before the last.

    Args:
        codes: integer tensor [..., rows, columns], values 0 … 2**bits - 1, rows a multiple of 32.
        bits: of a value.

    Returns:
        int32 [..., rows / 32 * bits, columns].

    Raises:
        ValueError: rows is not a multiple of 32, or a value does not fit.
    """
    packed_rows(codes.shape[-2], bits)
    if codes.device.type != "meta" and codes.numel() and bool(out_of_range(codes, bits)):
        raise ValueError(no_room(bits))
    return pack_rows_unchecked(codes, bits)


def out_of_range(codes: Tensor, bits: int) -> Tensor:
    """Return whether a value does not fit: bool [], on the device, which the host has yet to read.

    Args:
        codes: integers of any shape, at least one. bits: of a value.
    """
    low, high = codes.aminmax()
    outside: Tensor = (low < 0) | (high > 2**bits - 1)
    return outside


def no_room(bits: int) -> str:
    """Return what is said of a value that does not fit.

    Args:
        bits: of a value.
    """
    return f"a code is outside 0 … {2**bits - 1} and cannot be packed in {bits} bits"


def pack_rows_unchecked(codes: Tensor, bits: int) -> Tensor:
    """Do as :func:`pack_rows` without a look at the values: nothing waits for the device.

    One that does not fit spills into others, which a comparison after unpacking finds.

    Args:
        codes: integer tensor [..., rows, columns], rows a multiple of 32.
        bits: of a value.

    Returns:
        int32 [..., rows / 32 * bits, columns].

    Raises:
        ValueError: rows is not a multiple of 32.
    """
    *lead, rows, columns = codes.shape
    words = packed_rows(rows, bits)
    if codes.device.type == "meta":
        return torch.empty((*lead, words, columns), dtype=torch.int32, device="meta")
    if 32 % bits == 0:
        return _pack_whole(codes, bits)
    blocks = codes.reshape(*lead, rows // BLOCK, BLOCK, columns)  # [..., blocks, 32, columns]
    # int64: shifted values leave 32 bits before they are masked.
    shape = (*lead, rows // BLOCK, bits, columns)
    out = torch.zeros(shape, dtype=torch.int64, device=codes.device)
    for k in range(BLOCK):
        word, shift = divmod(k * bits, 32)
        value = blocks[..., k, :].to(torch.int64)
        out[..., word, :] |= (value << shift) & 0xFFFFFFFF
        if shift + bits > 32:
            out[..., word + 1, :] |= value >> (32 - shift)
    # Words above 2**31 - 1 wrap to the negative int32 with the same bits.
    wrapped = torch.where(out >= 2**31, out - 2**32, out).to(torch.int32)
    return wrapped.reshape(*lead, words, columns)


def unpack_rows(words: Tensor, bits: int) -> Tensor:
    """Undo :func:`pack_rows`.

    Args:
        words: int32 [..., rows / 32 * bits, columns].
        bits: of a value.

    Returns:
        uint8 [..., rows, columns].

    Raises:
        ValueError: the number of words is not a multiple of ``bits``.
    """
    *lead, count, columns = words.shape
    if count % bits:
        raise ValueError(f"cannot unpack {count} words of {bits}-bit values: not whole blocks")
    rows = count // bits * BLOCK
    if words.device.type == "meta":
        return torch.empty((*lead, rows, columns), dtype=torch.uint8, device="meta")
    # Shifts keep the sign, so what comes in from the left is masked away; 32 bits are enough.
    if 32 % bits == 0:
        return _unpack_whole(words, bits)
    blocks = words.reshape(*lead, count // bits, bits, columns)
    shape = (*lead, count // bits, BLOCK, columns)
    out = torch.empty(shape, dtype=torch.uint8, device=words.device)
    for k in range(BLOCK):
        word, shift = divmod(k * bits, 32)
        value = blocks[..., word, :] >> shift
        if shift + bits > 32:
            rest = 32 - shift
            value = (value & (2**rest - 1)) | (blocks[..., word + 1, :] << rest)
        out[..., k, :] = (value & (2**bits - 1)).to(torch.uint8)
    return out.reshape(*lead, rows, columns)


def _pack_whole(codes: Tensor, bits: int) -> Tensor:
    """Pack values that do not straddle words: a few launches a matrix, on an accelerator."""
    per = 32 // bits
    shifts = torch.arange(0, 32, bits, dtype=torch.int32, device=codes.device)
    *lead, rows, columns = codes.shape
    # [..., words, values, columns]
    values = codes.reshape(*lead, rows // per, per, columns).to(torch.int32)
    # No two values have a bit in common, so their sum is their union; int32 wraps at the top.
    return (values << shifts[:, None]).sum(-2, dtype=torch.int32)


def _unpack_whole(words: Tensor, bits: int) -> Tensor:
    """Undo :func:`_pack_whole`."""
    per, (*lead, count, columns) = 32 // bits, words.shape
    if words.device.type != "cpu":
        # All values at once, four bytes each while they are masked: launches count there.
        shifts = torch.arange(0, 32, bits, dtype=torch.int32, device=words.device)
        values: Tensor = (words.unsqueeze(-2) >> shifts[:, None]) & (2**bits - 1)
        return values.to(torch.uint8).reshape(*lead, count * per, columns)
    out = torch.empty((*lead, count, per, columns), dtype=torch.uint8, device=words.device)
    for k in range(per):
        out[..., k, :] = ((words >> (k * bits)) & (2**bits - 1)).to(torch.uint8)
    return out.reshape(*lead, count * per, columns)


def pack_ragged_rows(codes: Tensor, bits: int) -> Tensor:
    """Pack any number of integers along the axis before the last; the last word ends with zeros.

    Args:
        codes: integer tensor [..., rows, columns], values 0 … 2**bits - 1.
        bits: of a value.

    Returns:
        int32 [..., rows * bits / 32 rounded up, columns].

    Raises:
        ValueError: a value does not fit.
    """
    if codes.device.type != "meta" and codes.numel() and bool(out_of_range(codes, bits)):
        raise ValueError(no_room(bits))
    return pack_ragged_rows_unchecked(codes, bits)


def pack_ragged_rows_unchecked(codes: Tensor, bits: int) -> Tensor:
    """Do as :func:`pack_ragged_rows` without a look at the values.

    Args:
        codes: integer tensor [..., rows, columns].
        bits: of a value.

    Returns:
        int32 [..., rows * bits / 32 rounded up, columns].
    """
    count = packed_length(codes.shape[-2], bits)
    return pack_rows_unchecked(_fill_up(codes, BLOCK), bits)[..., :count, :]


def unpack_ragged_rows(words: Tensor, bits: int, rows: int) -> Tensor:
    """Undo :func:`pack_ragged_rows`; what follows the last value is not looked at.

    Args:
        words: int32 [..., rows * bits / 32 rounded up, columns].
        bits: of a value.
        rows: how many values there are.

    Returns:
        uint8 [..., rows, columns].

    Raises:
        ValueError: the number of words is another.
    """
    count = words.shape[-2]
    if count != packed_length(rows, bits):
        raise ValueError(f"{count} words do not hold {rows} values of {bits} bits")
    return unpack_rows(_fill_up(words, bits), bits)[..., :rows, :]


def _fill_up(rows: Tensor, multiple: int) -> Tensor:
    """Add rows of zeros up to a multiple; a tensor that has it is not copied."""
    short = -rows.shape[-2] % multiple
    return torch.nn.functional.pad(rows, (0, 0, 0, short)) if short else rows
