from __future__ import annotations

import pytest
import torch
from torch import nn

from autoround.core.rounding import dense_weight
from autoround.errors import FormatError
from autoround.formats.auto_round.format import AUTO_ROUND
from autoround.inference.linear import QuantLinear
from autoround.types import PER_CHANNEL, PER_TENSOR, QuantizedTensor, Scheme

from ...packed import to_tensors
from ...tiny_quantized import nearest

SCHEMES = (
    Scheme(4, 32, True),
    Scheme(2, 16, False),
    Scheme(3, PER_CHANNEL, True),
    Scheme(8, PER_TENSOR, False),
    Scheme(5, 48, True),
    Scheme(6, 256, False),
)


def make(scheme: Scheme, *, bias: bool) -> tuple[QuantLinear, QuantizedTensor]:
    """Return a layer of 64 inputs and 96 outputs, and what it holds."""
    generator = torch.Generator().manual_seed(0)
    quantized = nearest(torch.randn(96, 64, generator=generator), scheme)
    packing = AUTO_ROUND.layout_for({scheme}).name
    layer = QuantLinear((96, 64), scheme, packing=packing, bias=bias)
    state = to_tensors(quantized, packing)
    if bias:
        state["bias"] = torch.randn(96, generator=generator).half()
    layer.load_state_dict(state, assign=True)
    return layer, quantized


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(64,), (3, 64), (2, 5, 64)])
def test_it_is_the_linear_layer_of_its_dense_weight(
    scheme: Scheme, bias: bool, shape: tuple[int, ...]
) -> None:
    layer, quantized = make(scheme, bias=bias)
    assert (layer.bias is not None) == bias
    x = torch.randn(shape)
    weight = dense_weight(quantized)
    expected = nn.functional.linear(x, weight, None if layer.bias is None else layer.bias.float())
    assert torch.equal(layer(x), expected)
    assert torch.equal(dense_weight(layer.quantized()), weight)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_it_computes_in_the_dtype_of_its_input(dtype: torch.dtype) -> None:
    layer, quantized = make(SCHEMES[0], bias=True)
    x = torch.randn(3, 64).to(dtype)
    assert layer.bias is not None
    expected = nn.functional.linear(x, dense_weight(quantized).to(dtype), layer.bias.to(dtype))
    assert layer(x).dtype == dtype
    assert torch.equal(layer(x), expected)


def test_it_starts_empty_and_its_state_is_the_files() -> None:
    layer = QuantLinear((96, 64), SCHEMES[0], packing="auto_round:auto_gptq", bias=True)
    state = layer.state_dict()
    assert list(state) == ["qweight", "qzeros", "scales", "bias"]
    assert all(tensor.is_meta for tensor in state.values())
    assert list(layer.parameters()) == []
    without = QuantLinear((96, 64), SCHEMES[0], packing="auto_round:auto_gptq", bias=False)
    assert list(without.state_dict()) == ["qweight", "qzeros", "scales"]


def test_it_says_what_it_is() -> None:
    layer, _ = make(SCHEMES[0], bias=False)
    assert repr(layer) == "QuantLinear(in=64, out=96, W4 g32 sym)"


def test_damaged_tensors_are_refused() -> None:
    layer, _ = make(SCHEMES[0], bias=False)
    layer.scales = layer.scales[:1]
    with pytest.raises(FormatError, match=r"scales \(96, 1\)"):
        layer(torch.ones(64))
