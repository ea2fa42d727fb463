"""The estimate of what a change costs, against gradients, NumPy, and divergences themselves."""

from __future__ import annotations

import numpy as np
import torch

from autoround.core.ops import TorchOps
from autoround.core.sensitivity import SPAN, sampled_gradient, squared_effects


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_gradient_is_that_of_the_negative_logarithm_of_the_sampled_label() -> None:
    logits = torch.randn(50, 7, generator=draws(0), dtype=torch.float64).requires_grad_()
    found = sampled_gradient(logits.detach(), generator=draws(1))
    labels = (torch.softmax(logits.detach(), -1).float() - found).argmax(-1)
    loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
    wanted = torch.autograd.grad(loss, logits)[0]
    torch.testing.assert_close(found.double(), wanted, atol=1e-6, rtol=0)


def test_answers_are_drawn_as_often_as_they_are_likely() -> None:
    logits = torch.tensor([2.0, 0.0, -1.0, -30.0])
    found = sampled_gradient(logits.expand(40_000, 4), generator=draws(2))
    chances = torch.softmax(logits, -1)
    often = (chances - found).mean(0)
    torch.testing.assert_close(often, chances, atol=0.01, rtol=0)
    again = sampled_gradient(logits.expand(40_000, 4), generator=draws(2))
    assert torch.equal(found, again)


def test_effects_are_squared_by_the_span_of_tokens() -> None:
    rng = np.random.default_rng(0)
    grad, change = rng.normal(size=(2, 40, 5)), rng.normal(size=(2, 40, 5))
    products = (grad * change).sum(-1)
    spans = [products[:, start : start + SPAN].sum(-1) for start in range(0, 40, SPAN)]
    wanted = (np.array(spans) ** 2).sum()
    found = squared_effects(torch.from_numpy(grad), torch.from_numpy(change))
    assert abs(found - wanted) < 1e-4 * wanted
    loose = torch.from_numpy(grad).reshape(80, 5), torch.from_numpy(change).reshape(80, 5)
    assert abs(squared_effects(*loose) - (products**2).sum()) < 1e-4 * (products**2).sum()


def test_half_the_mean_square_is_the_divergence_of_small_changes() -> None:
    weight = torch.randn(9, 6, generator=draws(3))
    inputs = torch.randn(20_000, 6, generator=draws(4))
    change = 0.02 * torch.randn(9, 6, generator=draws(5))
    logits = inputs @ weight.t()
    real, _ = TorchOps().divergence(inputs @ (weight + change).t(), logits)
    grad = sampled_gradient(logits, generator=draws(6))
    found = squared_effects(grad, inputs @ change.t()) / 2
    assert abs(found / real - 1) < 0.05
