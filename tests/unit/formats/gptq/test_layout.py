"""GPTQ's words, bit by bit, against NumPy."""

# Tests: autoround/formats/gptq/tensors.py
from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from autoround.errors import FormatError
from autoround.formats.gptq.layout import (
    AUTO_ROUND_V1,
    AUTO_ROUND_V2,
    GPTQ_V1,
    GPTQ_V2,
    GptqLayout,
)
from autoround.types import QuantizedTensor, Scheme

from ....tiny_quantized import nearest

Ints = npt.NDArray[np.int64]
LAYOUTS = (GPTQ_V1, GPTQ_V2, AUTO_ROUND_V1, AUTO_ROUND_V2)


def layer(bits: int, *, lowest: int = 1, group: int = 32) -> QuantizedTensor:
    torch.manual_seed(bits)
    held = nearest(torch.randn(64, 96), Scheme(bits, group, False))
    return replace(held, zero=held.zero.clamp(min=lowest))


def fields(words: Tensor, bits: int) -> Ints:
    """Read columns of words as one stream of bits each, low bits first."""
    octets = np.ascontiguousarray(words.numpy().T).view(np.uint8)
    stream = np.unpackbits(octets, axis=1, bitorder="little")
    values = stream.reshape(len(stream), -1, bits).astype(np.int64) << np.arange(bits)
    found: Ints = values.sum(-1)
    return found


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda one: one.name)
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_codes_run_along_the_inputs_and_zero_points_along_the_outputs(
    layout: GptqLayout, bits: int
) -> None:
    held = layer(bits)
    found = layout.to_tensors(held)
    assert np.array_equal(fields(found["qweight"], bits), held.codes.numpy())
    stored = fields(found["qzeros"].t(), bits).T
    assert np.array_equal(stored + (1 if layout.version == 1 else 0), held.zero.numpy())
    assert torch.equal(found["scales"], held.scale.t())


@pytest.mark.parametrize("layout", [AUTO_ROUND_V1, AUTO_ROUND_V2], ids=lambda one: one.name)
@pytest.mark.parametrize("bits", range(2, 9))
def test_layers_come_back(layout: GptqLayout, bits: int) -> None:
    held = layer(bits, lowest=layout.lowest_zero)
    back = layout.from_tensors(layout.to_tensors(held), held.scheme, name="a")
    for part in ("codes", "scale", "zero"):
        assert torch.equal(getattr(back, part), getattr(held, part))


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_zero_points_of_0_that_borrowed_from_the_next_field_are_read(bits: int) -> None:
    """GPTQModel takes one from whole words."""
    held = layer(bits, lowest=0)
    held.zero[::3] = 0
    found = dict(AUTO_ROUND_V2.to_tensors(held))
    ones = sum(1 << shift for shift in range(0, 32, bits))
    words = found["qzeros"].long() - ones
    found["qzeros"] = torch.from_numpy(words.numpy().astype(np.int32))
    assert torch.equal(GPTQ_V1.from_tensors(found, held.scheme, name="a").zero, held.zero)


def test_version_1_has_no_word_for_a_zero_point_of_0() -> None:
    held = layer(4, lowest=0)
    held.zero[5, 1] = 0
    for layout in LAYOUTS:
        assert layout.lowest_zero == (1 if layout.version == 1 else 0)
        if layout.version == 1:
            with pytest.raises(FormatError, match="version 1 cannot hold a zero point of 0"):
                layout.to_tensors(held)
        else:
            layout.to_tensors(held)


@pytest.mark.parametrize("group", [16, 32, 96, -1, 0])
def test_the_group_of_each_input_is_written_for_gptq_alone(group: int) -> None:
    held = layer(4, group=group)
    width = group if group > 0 else 96
    assert GPTQ_V1.to_tensors(held)["g_idx"].tolist() == [i // width for i in range(96)]
    assert "g_idx" not in AUTO_ROUND_V1.to_tensors(held)


def test_what_clients_do_not_read_is_not_written() -> None:
    for bits in range(2, 9):
        reason = GPTQ_V1.illegal(Scheme(bits, 32, True))
        assert (reason == "") == (bits in (2, 3, 4, 8))
        assert AUTO_ROUND_V1.illegal(Scheme(bits, 32, True)) == ""
    assert GPTQ_V2.illegal(Scheme(5, 32, True)) == "it holds 2, 3, 4 or 8 bits, not 5"


@pytest.mark.parametrize(("shape", "word"), [((63, 64), "output"), ((64, 63), "input")])
def test_widths_that_do_not_fill_words_are_told(shape: tuple[int, int], word: str) -> None:
    reason = GPTQ_V1.why_not(shape, Scheme(4, 32, True))
    assert reason == f"its {word} width 63 is not a multiple of 32, which packing needs"
    assert GPTQ_V1.why_not((64, 96), Scheme(4, 32, True)) == ""


def test_words_of_another_width_are_refused() -> None:
    found = GPTQ_V1.to_tensors(layer(4))
    with pytest.raises(FormatError, match="does not hold 8-bit values|do not fit a weight"):
        GPTQ_V1.from_tensors(found, Scheme(8, 32, False), name="a")
    with pytest.raises(FormatError, match="does not hold 5-bit values"):
        GPTQ_V1.from_tensors(found, Scheme(5, 32, False), name="a")


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize(
    ("written", "read", "shown"), [(GPTQ_V1, GPTQ_V2, -1), (GPTQ_V2, GPTQ_V1, 1)]
)
def test_a_symmetric_layer_of_the_other_version_is_refused(
    bits: int, written: GptqLayout, read: GptqLayout, shown: int
) -> None:
    middle = 2 ** (bits - 1)
    symmetric = nearest(torch.randn(64, 96), Scheme(bits, 32, True))
    assert bool((symmetric.zero == middle).all())
    tensors = written.to_tensors(symmetric)
    tensors["scales"] = tensors["scales"].half()
    words = f"layer a: all its zero points are {middle + shown}, .* which is {middle}"
    with pytest.raises(FormatError, match=words):
        read.from_tensors(tensors, symmetric.scheme, name="a")
    # One that is off is no sign of a version: programs may have their reasons.
    symmetric.zero[0, 0] += shown
    tensors = written.to_tensors(symmetric) | {"scales": tensors["scales"]}
    assert read.from_tensors(tensors, symmetric.scheme, name="a").codes.shape == (64, 96)
