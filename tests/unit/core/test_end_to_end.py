from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from autoround.core import end_to_end
from autoround.core.rounding import dense_weight
from autoround.types import PER_CHANNEL, PER_TENSOR, QuantizedTensor, Scheme


def drawn(seed: int, shape: tuple[int, int], scheme: Scheme) -> QuantizedTensor:
    rng = torch.Generator().manual_seed(seed)
    size = {PER_CHANNEL: shape[1], PER_TENSOR: shape[1]}.get(scheme.group_size, scheme.group_size)
    groups = -(-shape[1] // size)
    held = (1, 1) if scheme.group_size == PER_TENSOR else (shape[0], groups)
    top = 2**scheme.bits
    zero = torch.full(held, top // 2) if scheme.sym else torch.randint(0, top, held, generator=rng)
    return QuantizedTensor(
        torch.randint(0, top, shape, generator=rng).to(torch.uint8),
        (torch.randn(held, generator=rng) * 0.1).half(),
        zero.to(torch.uint8),
        scheme,
    )


schemes = st.builds(
    Scheme,
    st.integers(2, 8),
    st.sampled_from([8, 16, PER_CHANNEL, PER_TENSOR]),
    st.booleans(),
)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), scheme=schemes, columns=st.sampled_from([16, 24, 37]))
def test_factors_of_one_leave_a_layer_as_it_is(seed: int, scheme: Scheme, columns: int) -> None:
    layer = drawn(seed, (5, columns), scheme)
    found = end_to_end.scaled_weight(layer, end_to_end.unit_factors(layer), dtype=torch.float32)
    scale = layer.scale.float().abs().clamp(min=1e-5)
    if bool((scale == layer.scale.float().abs()).all()):
        assert torch.equal(found, dense_weight(layer))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), scheme=schemes, columns=st.sampled_from([16, 24, 37]))
def test_scales_multiplied_for_good_give_the_weights_that_were_tuned(
    seed: int, scheme: Scheme, columns: int
) -> None:
    layer = drawn(seed, (5, columns), scheme)
    factor = 0.7 + 0.6 * torch.rand(end_to_end.unit_factors(layer).shape)
    tuned = end_to_end.scaled_weight(layer, factor, dtype=torch.float32)
    stored = end_to_end.with_factors(layer, factor)
    assert stored.scale.dtype == torch.float16
    assert stored.scale.shape == layer.scale.shape
    assert torch.equal(dense_weight(stored), tuned)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), scheme=schemes, columns=st.sampled_from([16, 24, 37]))
def test_the_gradient_of_factors_is_that_of_the_plain_formula(
    seed: int, scheme: Scheme, columns: int
) -> None:
    layer = drawn(seed, (5, columns), scheme)
    upstream = np.random.default_rng(seed).normal(size=(5, columns))
    got = end_to_end.scale_gradient(layer, torch.from_numpy(upstream).float())
    codes, scale = layer.codes.double().numpy(), layer.scale.double().numpy()
    zero = layer.zero.double().numpy()
    size = scheme.group_size if scheme.group_size > 0 else columns
    wanted = np.zeros(scale.shape)
    for row in range(5):
        for column in range(columns):
            at = (0, 0) if scheme.group_size == PER_TENSOR else (row, column // size)
            wanted[at] += upstream[row, column] * (codes[row, column] - zero[at]) * scale[at]
    np.testing.assert_allclose(got.squeeze(-1).numpy(), wanted, rtol=1e-4, atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), scheme=schemes, columns=st.sampled_from([16, 24, 37]))
def test_codes_vote_against_their_gradient_and_move_beyond_half_a_level(
    seed: int, scheme: Scheme, columns: int
) -> None:
    layer = drawn(seed, (5, columns), scheme)
    rng = np.random.default_rng(seed)
    size = scheme.group_size if scheme.group_size > 0 else columns
    # Where each code stands, in units of 254 a level, and may not leave the grid's ends.
    place = layer.codes.int().numpy() * 254
    votes = torch.zeros((5, columns), dtype=torch.int8)
    for units in (120, 90, 0, 77):
        upstream = rng.normal(size=(5, columns)) * (rng.random((5, columns)) < 0.8)
        end_to_end.scale_gradient(
            layer, torch.from_numpy(upstream).float(), end_to_end.SignVotes(votes, units)
        )
        for row in range(5):
            for column in range(columns):
                at = (0, 0) if scheme.group_size == PER_TENSOR else (row, column // size)
                slope = upstream[row, column] * float(layer.scale[at])
                place[row, column] -= units * int(np.sign(slope))
        place = place.clip(-127, (2**scheme.bits - 1) * 254 + 127)
        stood = layer.codes.int().numpy() * 254 + votes.int().numpy()
        np.testing.assert_array_equal(stood, place)
        assert int(votes.abs().max()) <= 127


@settings(deadline=None)
@given(steps=st.integers(1, 2000))
def test_gradients_of_random_signs_move_few_codes(steps: int) -> None:
    units = [end_to_end.votes_at(i, steps=steps) for i in range(steps)]
    spread = sum(u * u for u in units) ** 0.5
    assert max(units) <= 127
    if 12 <= steps <= 400:  # beyond, a unit is a coarse measure
        assert end_to_end.VOTES_PER_HALF_LEVEL / spread == pytest.approx(
            end_to_end.SIGMAS, rel=0.25
        )


def test_steps_are_those_of_adam() -> None:
    rng = torch.Generator().manual_seed(0)
    mine = [torch.randn(4, 3, generator=rng), torch.randn(7, generator=rng)]
    theirs = [p.clone().requires_grad_() for p in mine]
    steps = 12
    rates = (0.01, 0.03)
    state = end_to_end.init(mine, lrs=rates, steps=steps)
    groups = [{"params": [p]} for p in theirs]
    optimizer = torch.optim.Adam(groups, betas=end_to_end.BETAS, eps=end_to_end.EPSILON)
    for number in range(steps):
        grads = [torch.randn(p.shape, generator=rng) for p in mine]
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = end_to_end.learning_rate_at(number, lr=rate, steps=steps)
        for param, grad in zip(theirs, grads, strict=True):
            param.grad = grad.clone()
        optimizer.step()
        state = end_to_end.step(mine, grads, state=state)
    assert state.step == steps
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other.detach(), rtol=1e-5, atol=1e-6)


@given(steps=st.integers(1, 400), rate=st.floats(1e-5, 1.0))
def test_the_rate_rises_to_at_most_its_value_and_falls(steps: int, rate: float) -> None:
    rates = [end_to_end.learning_rate_at(i, lr=rate, steps=steps) for i in range(steps)]
    top = rates.index(max(rates))
    assert min(rates) > 0
    assert max(rates) <= rate
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)


def softmax(logits: Tensor) -> np.ndarray:
    exact = logits.double().numpy()
    found: np.ndarray = np.exp(exact - exact.max(-1, keepdims=True))
    return found / found.sum(-1, keepdims=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_divergence_and_its_gradient(dtype: torch.dtype) -> None:
    rng = torch.Generator().manual_seed(1)
    student, teacher = ((torch.randn(6, 11, generator=rng) * 3).to(dtype) for _ in range(2))
    loss, grad = end_to_end.divergence(student, teacher)
    p, q = softmax(teacher), softmax(student)
    assert loss == pytest.approx(float((p * (np.log(p) - np.log(q))).sum()), rel=1e-5)
    assert grad.dtype == dtype
    tolerance = 1e-6 if dtype == torch.float32 else 1e-2
    np.testing.assert_allclose(grad.float().numpy(), q - p, atol=tolerance)
    assert end_to_end.divergence(teacher, teacher)[0] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(("steps", "trial"), [(1, 1), (19, 19), (20, 4), (21, 5), (100, 20)])
def test_a_fifth_of_the_steps_is_a_trial_unless_they_are_few(steps: int, trial: int) -> None:
    assert end_to_end.trial_steps(steps) == trial


@pytest.mark.parametrize(
    ("loss", "hopeless"), [(0.5, False), (0.99, False), (1.0, True), (1.2, True), (math.nan, True)]
)
def test_steps_that_gained_nothing_are_hopeless(loss: float, hopeless: bool) -> None:
    assert end_to_end.is_hopeless(loss, before=1.0) == hopeless
