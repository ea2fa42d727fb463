# Tests: autoround/core/word_counts.py
from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autoround.core.packing import (
    pack_ragged_rows,
    pack_rows,
    unpack_ragged_rows,
    unpack_rows,
)
from autoround.core.word_counts import packed_length, packed_rows
from autoround.types import LEGAL_BITS
from autoround_backends import reference_search

from ...bit_stream import stream_values, stream_words
from ._cases import few


def codes_of(bits: int, rows: int, columns: int, seed: int) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, 2**bits, size=(rows, columns)).astype(np.uint8))


@few
@given(
    bits=st.sampled_from(LEGAL_BITS),
    blocks=st.integers(1, 4),
    columns=st.integers(1, 5),
    seed=st.integers(0, 2**31),
)
def test_words_are_one_bit_stream_and_read_back(
    bits: int, blocks: int, columns: int, seed: int
) -> None:
    codes = codes_of(bits, blocks * 32, columns, seed)
    words = pack_rows(codes, bits)
    assert words.dtype == torch.int32
    assert words.shape == (packed_rows(blocks * 32, bits), columns)
    np.testing.assert_array_equal(words.numpy(), reference_search.pack_rows(codes.numpy(), bits))
    back = unpack_rows(words, bits)
    assert back.dtype == torch.uint8
    assert torch.equal(back, codes)
    np.testing.assert_array_equal(reference_search.unpack_rows(words.numpy(), bits), codes.numpy())


@pytest.mark.parametrize(
    ("bits", "code", "word"),
    [
        (4, 7, 0x77777777),
        (8, 0x7F, 0x7F7F7F7F),
        (2, 1, 0x55555555),
        (4, 8, 0x88888888),
        (8, 255, 0xFFFFFFFF),
    ],
)
def test_words_that_other_programs_write(bits: int, code: int, word: int) -> None:
    words = pack_rows(torch.full((32, 3), code, dtype=torch.uint8), bits)
    assert words.shape == (bits, 3)
    assert [value & 0xFFFFFFFF for value in words.flatten().tolist()] == [word] * bits * 3


def test_the_first_value_is_in_the_lowest_bits() -> None:
    codes = torch.zeros(32, 1, dtype=torch.uint8)
    codes[:8, 0] = torch.arange(1, 9)
    assert int(pack_rows(codes, 4)[0]) & 0xFFFFFFFF == 0x87654321


def test_three_bit_values_straddle_words_as_the_layout_says() -> None:
    """Word 0: values 0-9 and the low two bits of 10; word 1: its high bit, and so on."""
    codes = codes_of(3, 32, 1, seed=7)
    v = [int(value) for value in codes[:, 0]]
    expected = [
        sum(v[k] << 3 * k for k in range(10)) | (v[10] & 3) << 30,
        v[10] >> 2 | sum(v[11 + k] << 3 * k + 1 for k in range(10)) | (v[21] & 1) << 31,
        v[21] >> 1 | sum(v[22 + k] << 3 * k + 2 for k in range(10)),
    ]
    words = pack_rows(codes, 3).flatten().tolist()
    assert [word & 0xFFFFFFFF for word in words] == expected


@pytest.mark.parametrize("bits", LEGAL_BITS)
def test_every_value_is_alone_in_its_bits(bits: int) -> None:
    """One full value among zeros sets exactly its own bits of the stream."""
    for position in (0, 5, 10, 21, 31, 32, 63):
        codes = torch.zeros(64, 1, dtype=torch.uint8)
        codes[position] = 2**bits - 1
        words = pack_rows(codes, bits).flatten().tolist()
        stream = sum((word & 0xFFFFFFFF) << (32 * k) for k, word in enumerate(words))
        assert stream == (2**bits - 1) << (position * bits)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_codes_of_any_integer_type(dtype: torch.dtype) -> None:
    codes = codes_of(5, 32, 2, seed=1)
    assert torch.equal(pack_rows(codes.to(dtype), 5), pack_rows(codes, 5))


def test_codes_are_packed_along_the_first_axis_whatever_their_strides() -> None:
    codes = codes_of(3, 64, 32, seed=1)
    assert torch.equal(pack_rows(codes.T.contiguous().T, 3), pack_rows(codes, 3))
    words = pack_rows(codes, 3)
    assert torch.equal(unpack_rows(words.T.contiguous().T, 3), codes)


@pytest.mark.parametrize("bits", LEGAL_BITS)
def test_shapes_come_free_on_the_meta_device(bits: int) -> None:
    words = pack_rows(torch.empty(64, 7, dtype=torch.uint8, device="meta"), bits)
    assert (words.shape, words.dtype) == ((2 * bits, 7), torch.int32)
    codes = unpack_rows(words, bits)
    assert (codes.shape, codes.dtype) == ((64, 7), torch.uint8)


def test_no_columns_and_no_rows() -> None:
    assert pack_rows(torch.zeros(32, 0, dtype=torch.uint8), 4).shape == (4, 0)
    assert pack_rows(torch.zeros(0, 3, dtype=torch.uint8), 4).shape == (0, 3)
    assert unpack_rows(torch.zeros(0, 3, dtype=torch.int32), 4).shape == (0, 3)


@pytest.mark.parametrize("rows", [1, 31, 33, 48])
def test_rows_that_are_no_whole_blocks_are_refused(rows: int) -> None:
    with pytest.raises(ValueError, match=f"{rows} values: not a multiple of 32"):
        pack_rows(torch.zeros(rows, 2, dtype=torch.uint8), 4)
    with pytest.raises(ValueError, match="not a multiple of 32"):
        packed_rows(rows, 4)


@pytest.mark.parametrize(("bits", "code"), [(4, 16), (4, -1), (3, 8), (8, 256), (2, -3)])
def test_codes_that_do_not_fit_are_refused(bits: int, code: int) -> None:
    codes = torch.zeros(32, 2, dtype=torch.int32)
    codes[3, 1] = code
    with pytest.raises(ValueError, match=rf"outside 0 … {2**bits - 1}.*{bits} bits"):
        pack_rows(codes, bits)


def test_words_that_are_no_whole_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="4 words of 3-bit values"):
        unpack_rows(torch.zeros(4, 2, dtype=torch.int32), 3)


@few
@given(
    bits=st.integers(1, 8),
    rows=st.integers(0, 100),
    columns=st.integers(1, 5),
    seed=st.integers(0, 2**31),
)
def test_any_number_of_rows_is_one_bit_stream(
    bits: int, rows: int, columns: int, seed: int
) -> None:
    codes = codes_of(bits, rows, columns, seed)
    words = pack_ragged_rows(codes, bits)
    assert words.dtype == torch.int32
    assert words.shape == (packed_length(rows, bits), columns)
    np.testing.assert_array_equal(words.numpy().T, stream_words(codes.numpy().T, bits))
    back = unpack_ragged_rows(words, bits, rows)
    assert back.dtype == torch.uint8
    assert torch.equal(back, codes)
    np.testing.assert_array_equal(stream_values(words.numpy().T, bits, rows).T, codes.numpy())


@pytest.mark.parametrize("bits", LEGAL_BITS)
@pytest.mark.parametrize("rows", [32, 96])
def test_whole_blocks_are_packed_as_without_a_rest(bits: int, rows: int) -> None:
    codes = codes_of(bits, rows, 3, seed=bits)
    assert torch.equal(pack_ragged_rows(codes, bits), pack_rows(codes, bits))


@pytest.mark.parametrize("bits", LEGAL_BITS)
def test_what_follows_the_last_value_is_not_looked_at(bits: int) -> None:
    codes = codes_of(bits, 33, 2, seed=3)
    words = pack_ragged_rows(codes, bits)
    left = 32 * len(words) - 33 * bits
    words[-1] |= torch.tensor(-1 << (32 - left), dtype=torch.int64).to(torch.int32)
    assert torch.equal(unpack_ragged_rows(words, bits, 33), codes)


@pytest.mark.parametrize("bits", LEGAL_BITS)
def test_ragged_shapes_come_free_on_the_meta_device(bits: int) -> None:
    words = pack_ragged_rows(torch.empty(37, 7, dtype=torch.uint8, device="meta"), bits)
    assert (words.shape, words.dtype) == ((-(-37 * bits // 32), 7), torch.int32)
    codes = unpack_ragged_rows(words, bits, 37)
    assert (codes.shape, codes.dtype) == ((37, 7), torch.uint8)


def test_another_number_of_words_is_refused() -> None:
    words = torch.zeros(4, 2, dtype=torch.int32)
    assert unpack_ragged_rows(words, 3, 42).shape == (42, 2)
    for rows in (32, 43):
        with pytest.raises(ValueError, match=f"4 words do not hold {rows} values of 3 bits"):
            unpack_ragged_rows(words, 3, rows)


def test_ragged_codes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"outside 0 … 7.*3 bits"):
        pack_ragged_rows(torch.full((5, 1), 8), 3)
