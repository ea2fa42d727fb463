"""AWQ's words, nibble by nibble, against NumPy."""

# Tests: autoround/formats/awq/tensors.py
from __future__ import annotations

import numpy as np
import pytest
import torch

from autoround.errors import FormatError
from autoround.formats.awq.layout import AUTO_ROUND_AWQ, AWQ
from autoround.formats.awq.tensors import pack_columns, unpack_columns
from autoround.types import QuantizedTensor, Scheme

from ....tiny_quantized import nearest

#: AWQ's order of outputs in a word, lowest nibble first.
ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def test_words_hold_eight_outputs_in_the_order_of_awq() -> None:
    codes = torch.randint(0, 16, (5, 24), dtype=torch.uint8)
    words = pack_columns(codes)
    assert words.dtype == torch.int32
    unsigned = words.numpy().view(np.uint32)
    nibbles = (unsigned[:, :, None] >> (4 * np.arange(8, dtype=np.uint32))) & 15
    assert np.array_equal(nibbles, codes.numpy().reshape(5, 3, 8)[:, :, ORDER])
    assert torch.equal(unpack_columns(words), codes)


def test_the_highest_nibble_makes_a_word_negative() -> None:
    codes = torch.tensor([[0, 0, 0, 0, 0, 0, 0, 15], [15] * 8], dtype=torch.uint8)
    assert pack_columns(codes)[:, 0].tolist() == [-(1 << 28), -1]


@pytest.mark.parametrize("group", [32, 96, -1])
@pytest.mark.parametrize("sym", [True, False])
def test_layers_come_back(group: int, sym: bool) -> None:
    held = nearest(torch.randn(40, 96), Scheme(4, group, sym))
    found = AWQ.to_tensors(held)
    assert {n: tuple(t.shape) for n, t in found.items()} == {
        "qweight": (96, 5),
        "qzeros": (held.scale.shape[1], 5),
        "scales": (held.scale.shape[1], 40),
    }
    back = AWQ.from_tensors(found, held.scheme, name="a")
    for part in ("codes", "scale", "zero"):
        assert torch.equal(getattr(back, part), getattr(held, part))


def test_a_scale_of_the_tensor_is_one_of_each_output() -> None:
    held = nearest(torch.randn(16, 32), Scheme(4, 0, False))
    back = AWQ.from_tensors(AWQ.to_tensors(held), held.scheme, name="a")
    assert back.scheme == Scheme(4, -1, False)
    assert torch.equal(back.scale, held.scale.expand(16, 1))


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_other_widths_are_refused(bits: int) -> None:
    scheme = Scheme(bits, 32, True)
    held = nearest(torch.randn(16, 32), scheme)
    assert AWQ.illegal(scheme) == f"it holds 4 bits only, not {bits}"
    with pytest.raises(FormatError, match=f"AWQ holds 4 bits, not {bits}"):
        AWQ.to_tensors(held)
    with pytest.raises(FormatError, match=f"layer a: AWQ holds 4 bits, not {bits}"):
        AWQ.from_tensors({}, scheme, name="a")


def test_shapes_that_do_not_fit_are_told() -> None:
    scheme = Scheme(4, 32, True)
    assert AWQ.why_not((40, 96), scheme) == AUTO_ROUND_AWQ.why_not((40, 96), scheme) == ""
    assert AWQ.why_not((36, 96), scheme) == (
        "its output width 36 is not a multiple of 8, which AWQ needs"
    )
    assert "100 is not a multiple of the group size 32" in AWQ.why_not((40, 100), scheme)


def test_meta_tensors_give_shapes() -> None:
    held = nearest(torch.randn(16, 64), Scheme(4, 32, True))
    codes, scale, zero = (t.to("meta") for t in (held.codes, held.scale, held.zero))
    empty = QuantizedTensor(codes, scale, zero, held.scheme)
    real = {name: (t.shape, t.dtype) for name, t in AWQ.to_tensors(held).items()}
    assert {name: (t.shape, t.dtype) for name, t in AWQ.to_tensors(empty).items()} == real
