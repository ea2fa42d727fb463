"""The bench's emulation of FP8: what is rounded, and what is not."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

BENCH = Path(__file__).parents[2] / "tools" / "bench"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(BENCH))
    yield importlib.import_module("fp8_steps")
    sys.modules.pop("fp8_steps", None)


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_a_run_is_rounded_by_its_own_largest(bench: Any) -> None:
    values = drawn(3, 300)
    values[:, :128] *= 1e4
    rounded = bench.round_to_e4m3(values)
    assert rounded.shape == values.shape
    # Three bits behind the first one: a sixteenth at most, and some three hundredths as a rule.
    apart = (rounded - values).abs() / values.abs()
    large = values.abs() > values.abs().amax(-1, keepdim=True) * 1e-8
    assert float(apart[large].median()) < 0.03
    for start in range(0, 300, 128):
        run, exact = rounded[:, start : start + 128], values[:, start : start + 128]
        assert torch.equal(run, bench.round_to_e4m3(exact)), "runs do not know each other"
        assert float((run - exact).abs().max() / exact.abs().max()) < 1 / 16


def test_only_products_and_gradients_of_inputs_are_rounded(bench: Any) -> None:
    x, weight = drawn(2, 5, 256).requires_grad_(), drawn(96, 256).requires_grad_()
    upstream = drawn(2, 5, 96)
    plain = torch.nn.functional.linear(x, weight)
    wanted = torch.autograd.grad(plain, [x, weight], upstream)
    with bench.fp8_steps():
        out = torch.nn.functional.linear(x, weight)
        grads = torch.autograd.grad(out, [x, weight], upstream)
        with torch.no_grad():
            assert torch.equal(torch.nn.functional.linear(x, weight), plain), "scores are whole"
    assert torch.equal(out, bench.round_to_e4m3(x) @ weight.t())
    assert 1e-3 < float((out - plain).detach().norm() / plain.detach().norm()) < 0.05
    assert 1e-3 < float((grads[0] - wanted[0]).norm() / wanted[0].norm()) < 0.08
    torch.testing.assert_close(grads[1], wanted[1])
    assert torch.equal(torch.nn.functional.linear(x, weight), plain), "torch's own is back"
