from __future__ import annotations

import numpy as np
import pytest
import torch

from autoround.core.rtn import quantize_matrix
from autoround.formats.gguf.tensors import dense, nested_tensor
from autoround.session.block_output import QuantizedWeight
from autoround.tuning.layer_errors import layer_errors, relative_error
from autoround.types import LayerPlan, QuantizedTensor, Scheme

SHAPE = (48, 64)


def weight(seed: int = 0) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def plain(original: torch.Tensor, scheme: Scheme) -> QuantizedTensor:
    matrix = quantize_matrix(original, scheme)
    return QuantizedTensor(matrix.codes, matrix.scale, matrix.zero, scheme)


def reference(original: torch.Tensor, quantized: QuantizedTensor) -> float:
    """Dequantize by the formula scale * (codes - zero), in float64."""
    codes = quantized.codes.numpy().astype(np.float64)
    size = quantized.scheme.group_size
    width = {-1: SHAPE[1], 0: SHAPE[1]}.get(size, size)
    scale = np.repeat(quantized.scale.numpy().astype(np.float64), width, axis=1)
    zero = np.repeat(quantized.zero.numpy().astype(np.float64), width, axis=1)
    exact = original.numpy().astype(np.float64)
    return float(np.linalg.norm(scale * (codes - zero) - exact) / np.linalg.norm(exact))


@pytest.mark.parametrize("chunk", [1 << 20, 5 * SHAPE[1]])
@pytest.mark.parametrize(
    "scheme",
    [Scheme(4, 32, True), Scheme(2, 16, False), Scheme(3, -1, True), Scheme(8, 0, True)],
    ids=str,
)
def test_it_is_the_formula(scheme: Scheme, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoround.tuning.layer_errors.CHUNK_ELEMENTS", chunk)
    original = weight()
    done = plain(original, scheme)
    assert relative_error(original, done) == pytest.approx(reference(original, done), rel=1e-5)


def test_fewer_bits_have_a_larger_error() -> None:
    original = weight()
    errors = [relative_error(original, plain(original, Scheme(b, 32, True))) for b in (2, 4, 8)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 10 * errors[-1]


def test_a_weight_of_zeros_has_no_error() -> None:
    original = torch.zeros(SHAPE)
    assert relative_error(original, plain(original, Scheme(4, 32, True))) == 0.0


def test_block_types_of_gguf() -> None:
    scheme = Scheme(4, 32, False, "q4_k")
    original = torch.randn((8, 256), generator=torch.Generator().manual_seed(1))
    matrix = quantize_matrix(original, scheme)
    assert matrix.nested is not None
    done: QuantizedWeight = nested_tensor("q4_k", matrix.codes, matrix.nested)
    assert 0.01 < relative_error(original, done) < 0.2


def test_layers_by_name() -> None:
    original = weight(3)
    layer = LayerPlan("h.0.c_fc", SHAPE, Scheme(4, 32, True))
    done = plain(original, Scheme(4, 32, True))
    late = layer_errors([layer], {layer.name: done}, {"h.0.c_fc": original})
    assert late.read() == {"h.0.c_fc": relative_error(original, done)}


@pytest.mark.parametrize("size", [32, 48])
def test_what_is_dequantized_already_gives_the_same(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit: with padded groups, too, whose sums would go in another order."""
    monkeypatch.setattr("autoround.tuning.layer_errors.CHUNK_ELEMENTS", 7 * SHAPE[1])
    original = weight(4)
    done = plain(original, Scheme(3, size, True))
    layer = LayerPlan("fc", SHAPE, done.scheme)
    late = layer_errors([layer], {"fc": done}, {"fc": original}, dequantized={"fc": dense(done)})
    assert late.read() == {"fc": relative_error(original, done)}


def test_no_layers_have_no_errors() -> None:
    assert layer_errors([], {}, {}).read() == {}
