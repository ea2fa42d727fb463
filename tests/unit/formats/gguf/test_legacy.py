"""GGUF's blocks of 32 weights, against NumPy and llama.cpp's own package."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from torch import Tensor

from autoround.formats.gguf.legacy import (
    PACKERS,
    UNPACKERS,
    from_nibbles,
    from_planes,
    half,
    nibbles,
    planes,
    raw,
)

BITS = {"q4_0": 4, "q4_1": 4, "q5_0": 5, "q5_1": 5, "q8_0": 8}
MIDDLE = {"q4_0": 8, "q5_0": 16, "q8_0": 128}


def parts(kind: str, count: int = 9) -> list[Tensor]:
    generator = torch.Generator().manual_seed(BITS[kind])
    codes = torch.randint(0, 2 ** BITS[kind], (count, 32), generator=generator, dtype=torch.uint8)
    held = [codes, torch.randn(count, 1, generator=generator).half()]
    return held if kind in MIDDLE else [*held, torch.randn(count, 1, generator=generator).half()]


@pytest.mark.parametrize("kind", PACKERS)
def test_the_package_reads_the_weights_that_were_meant(kind: str) -> None:
    own = parts(kind)
    data = torch.cat(PACKERS[kind](*own), 1)
    number = gguf.GGMLQuantizationType[kind.upper()]
    assert data.shape[1] == gguf.GGML_QUANT_SIZES[number][1]
    read = gguf.quants.dequantize(data.numpy(), number)
    codes, scale, *minimum = (part.numpy().astype(np.float32) for part in own)
    wanted = (codes - MIDDLE[kind]) * scale if kind in MIDDLE else codes * scale - minimum[0]
    np.testing.assert_allclose(read, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", PACKERS)
def test_parts_come_back_from_their_bytes(kind: str) -> None:
    own = parts(kind)
    back = UNPACKERS[kind](torch.cat(PACKERS[kind](*own), 1))
    assert len(back) == len(own)
    assert all(torch.equal(found, part) for found, part in zip(back, own, strict=True))


@pytest.mark.parametrize("kind", PACKERS)
def test_any_bytes_come_back_from_their_parts(kind: str) -> None:
    size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind.upper()]][1]
    data = torch.randint(0, 256, (20, size), dtype=torch.uint8)
    data[:, 1:4:2] &= 0x7B  # no scale or minimum that is no number
    assert torch.equal(torch.cat(PACKERS[kind](*UNPACKERS[kind](data)), 1), data)


def test_nibbles_hold_the_first_half_low_and_the_second_high() -> None:
    codes = torch.tensor([[1, 2, 3, 4, 5, 6]], dtype=torch.uint8)
    assert nibbles(codes).tolist() == [[1 + 16 * 4, 2 + 16 * 5, 3 + 16 * 6]]
    assert torch.equal(from_nibbles(nibbles(codes)), codes)


@pytest.mark.parametrize(("bits", "count"), [(1, 8), (2, 4), (4, 2)])
def test_planes_lie_at_their_bits(bits: int, count: int) -> None:
    codes = torch.randint(0, 2**bits, (3, count, 5), dtype=torch.uint8)
    wanted = (codes.numpy().astype(np.int64) << (bits * np.arange(count))[:, None]).sum(1)
    assert np.array_equal(planes(codes, bits).numpy(), wanted)
    assert torch.equal(from_planes(planes(codes, bits), bits, count), codes)


def test_half_precision_values_are_little_endian_bytes_wherever_these_lie() -> None:
    values = torch.tensor([[1.0], [-2.5]]).half()
    assert raw(values).numpy().tobytes() == values.numpy().astype("<f2").tobytes()
    shifted = torch.cat([torch.zeros(2, 1, dtype=torch.uint8), raw(values)], 1)[:, 1:]
    assert torch.equal(half(shifted), values)
