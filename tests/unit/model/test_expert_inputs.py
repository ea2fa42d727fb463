"""Sums of squares that experts get, against loops in NumPy; sorted by expert and one by one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from autoround.model import expert_inputs
from autoround.model.expert_inputs import (
    GatedExperts,
    inner_squares,
    inner_squares_sorted,
    observe_experts,
)

TOKENS, EXPERTS, TOP, WIDTH, INNER = 40, 6, 2, 16, 8


def join(y: Tensor) -> Tensor:
    gate, up = y.chunk(2, dim=-1)
    return torch.tanh(gate) * up


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def routing(*, unused: bool = False) -> Tensor:
    """Draw two experts a token; the last expert gets none, and some slots are unused."""
    generator = torch.Generator().manual_seed(7)
    orders = [torch.randperm(EXPERTS - 1, generator=generator)[:TOP] for _ in range(TOKENS)]
    chosen = torch.stack(orders)
    if unused:
        chosen[::5, 1] = EXPERTS
    return chosen


def gated(*, bias: bool) -> GatedExperts:
    weight = drawn(EXPERTS, 2 * INNER, WIDTH).transpose(1, 2)
    return GatedExperts(weight, drawn(EXPERTS, 2 * INNER) if bias else None, join)


def wanted_squares(experts: GatedExperts, hidden: Tensor, chosen: Tensor) -> Any:
    """Sum token by token in float64."""
    x, weight = hidden.double().numpy(), experts.weight.double().numpy()
    sums = np.zeros((EXPERTS, INNER))
    for token, slots in enumerate(chosen.tolist()):
        for expert in slots:
            if expert < EXPERTS:
                y = x[token] @ weight[expert]
                if experts.bias is not None:
                    y = y + experts.bias[expert].double().numpy()
                sums[expert] += (np.tanh(y[:INNER]) * y[INNER:]) ** 2
    return sums


def hits(chosen: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(chosen, EXPERTS + 1).sum(1)[:, :EXPERTS].float()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("unused", [False, True])
def test_both_ways_give_the_sums_of_a_loop(bias: bool, unused: bool) -> None:
    experts, hidden, chosen = gated(bias=bias), drawn(TOKENS, WIDTH), routing(unused=unused)
    wanted = torch.from_numpy(wanted_squares(experts, hidden, chosen)).float()
    assert not wanted[-1].any(), "an expert without tokens"
    one_by_one = inner_squares(experts, hidden, hits(chosen))
    torch.testing.assert_close(one_by_one, wanted, rtol=1e-4, atol=1e-4)
    at_once = inner_squares_sorted(experts, hidden, chosen)
    torch.testing.assert_close(at_once, wanted, rtol=1e-4, atol=1e-4)


def test_what_lies_behind_the_last_expert_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    product = expert_inputs._grouped_product

    def leaves_the_rest(rows: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
        out = product(rows, weights, ends).clone()
        out[int(ends[-1]) :] = float("nan")
        return out

    monkeypatch.setattr(expert_inputs, "_grouped_product", leaves_the_rest)
    experts, hidden, chosen = gated(bias=True), drawn(TOKENS, WIDTH), routing(unused=True)
    wanted = torch.from_numpy(wanted_squares(experts, hidden, chosen)).float()
    found = inner_squares_sorted(experts, hidden, chosen)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_without_grouped_products_the_sums_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*tensors: Tensor) -> Tensor:
        raise RuntimeError("strides should be multiple of 16 bytes")

    experts, hidden, chosen = gated(bias=True), drawn(TOKENS, WIDTH), routing(unused=True)
    monkeypatch.setattr(expert_inputs, "_grouped_product", refuse)
    wanted = torch.from_numpy(wanted_squares(experts, hidden, chosen)).float()
    found = inner_squares_sorted(experts, hidden, chosen)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


class Sums:
    """Takes sums; every third position is padding."""

    def __init__(self, *, masked: bool) -> None:
        self.tokens: Tensor | None = None
        self.squares: dict[str, Tensor] = {}
        self.real = torch.arange(TOKENS) % 3 != 0 if masked else None

    def flat_mask(self, positions: int) -> Tensor | None:
        return self.real

    def count(self, module: str, tokens: Tensor) -> None:
        self.tokens = tokens

    def add_routed(self, name: str, squares: Tensor) -> None:
        self.squares[name] = squares


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
def test_every_matrix_of_an_expert_gets_its_sums(masked: bool, transposed: bool) -> None:
    experts, hidden, chosen = gated(bias=False), drawn(TOKENS, WIDTH), routing(unused=True)
    stored = experts.weight if transposed else experts.weight.transpose(1, 2)
    module: Any = SimpleNamespace(
        gate_up_proj=stored, is_transposed=transposed, has_gate=True, _apply_gate=join
    )
    sums = Sums(masked=masked)
    names = ["gate_up_proj", "down_proj"]
    observe_experts(module, [hidden, chosen], into=sums, path="e", count=EXPERTS, weights=names)
    real = torch.ones(TOKENS, dtype=torch.bool) if sums.real is None else sums.real
    hit = hits(chosen) * real[:, None]
    assert sums.tokens is not None
    assert sums.tokens.tolist() == hit.sum(0).tolist()
    torch.testing.assert_close(sums.squares["e.gate_up_proj"], hit.t() @ hidden.square())
    counted = chosen.masked_fill(~real[:, None], EXPERTS)
    wanted = torch.from_numpy(wanted_squares(experts, hidden, counted)).float()
    torch.testing.assert_close(sums.squares["e.down_proj"], wanted, rtol=1e-4, atol=1e-4)
