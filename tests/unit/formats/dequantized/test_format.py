"""Dequantized weights are those that the codes stand for, and say nothing of having been any."""

from __future__ import annotations

import pytest
import torch

from autoround.core.rounding import dense_weight
from autoround.errors import FormatError
from autoround.formats.dequantized.format import FORMATS, DequantizedLayout
from autoround.types import OutputPlan, QuantizedTensor, Scheme

from ....tiny_quantized import make_plan, nearest

LAYOUT = DequantizedLayout()
FAKE = FORMATS[0]


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("group", [7, 64, -1, 0])
def test_any_scheme_and_shape_is_held(bits: int, group: int) -> None:
    scheme = Scheme(bits, group, False)
    assert LAYOUT.illegal(scheme) == LAYOUT.why_not((3, 50), scheme) == ""
    held = nearest(torch.randn(3, 50), scheme)
    (found,) = LAYOUT.to_tensors(held).values()
    width = group if group > 0 else 50
    scale, zero = (
        part.expand(3, -1).double().repeat_interleave(width, 1)[:, :50]
        for part in (held.scale, held.zero)
    )
    assert torch.equal(found.double(), (held.codes.double() - zero) * scale)
    assert torch.equal(found, dense_weight(held))


def test_codes_are_not_read_back() -> None:
    with pytest.raises(FormatError, match="layer a: a dequantized weight holds no codes"):
        LAYOUT.from_tensors({"weight": torch.ones(2, 2)}, Scheme(4, 2, True), name="a")


def test_weights_that_a_dtype_does_not_hold_are_counted() -> None:
    codes = torch.tensor([[8, 9, 11, 12]], dtype=torch.uint8)
    scale, zero = torch.tensor([[1.0 + 2**-10]]).half(), torch.tensor([[8]], dtype=torch.uint8)
    held = QuantizedTensor(codes, scale, zero, Scheme(4, 4, True))
    # Once, three and four times the scale: three times takes one digit more.
    assert LAYOUT.inexact(held, torch.float16) == "1 weights are not exact in float16"
    assert LAYOUT.inexact(held, torch.bfloat16) == "3 weights are not exact in bfloat16"
    assert LAYOUT.inexact(held, torch.float32) == ""


def test_its_config_says_nothing() -> None:
    assert FAKE.config_keys == ()
    assert FAKE.config(make_plan(()), OutputPlan("fake", "fake", "float16")) == {}
    assert FAKE.packed_layers({}, {"a": (2, 2)}, {"a.weight"}) == {}
    assert not FAKE.reads({})
    assert not FAKE.reads({"quant_method": ""})
    assert FAKE.layouts[0].dense


@pytest.mark.parametrize(("chosen", "dtype"), [(True, "bfloat16"), (False, "float16")])
def test_half_precision_holds_scales_exactly_unless_another_was_chosen(
    chosen: bool, dtype: str
) -> None:
    assert FAKE.kept_dtype("bfloat16", chosen=chosen) == dtype
