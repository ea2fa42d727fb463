from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autoround.core import signsgd
from autoround_backends import reference

from ._cases import few


@few
@given(
    rate=st.floats(1e-4, 1.0),
    steps=st.integers(1, 30),
    seed=st.integers(0, 2**31),
)
def test_all_steps_agrees_with_the_oracle(rate: float, steps: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shapes = [(3, 2, 4), (3, 2, 1)]
    params = [torch.from_numpy(rng.normal(size=shape)).float() for shape in shapes]
    expected = [param.double().numpy() for param in params]
    state = signsgd.init(rate, steps)
    for step in range(steps):
        grads = [rng.normal(size=shape) * (rng.random(shape) > 0.2) for shape in shapes]
        expected = reference.sign_step(expected, grads, rate=rate, step=step, steps=steps)
        tensors = [torch.from_numpy(grad).float() for grad in grads]
        state = signsgd.step(params, tensors, state=state)
        assert state == (rate, step + 1, steps)
    for ours, theirs in zip(params, expected, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-5, atol=1e-5)


def test_every_parameter_moves_by_the_rate_or_not_at_all() -> None:
    param = torch.zeros(5)
    grad = torch.tensor([3.0, -1e-20, 0.0, -7.0, 1e30])
    state = signsgd.step([param], [grad], state=signsgd.init(0.25, 4))
    assert param.tolist() == [-0.25, 0.25, 0.0, 0.25, -0.25]
    assert state == signsgd.SignState(0.25, 1, 4)


def test_the_rate_falls_linearly_to_nothing() -> None:
    rates = [signsgd.linear_lr(0.5, step, steps=4) for step in range(5)]
    assert rates == [0.5, 0.375, 0.25, 0.125, 0.0]


def test_the_whole_way_is_about_half_a_level_at_the_default_rate() -> None:
    steps = 200
    way = sum(signsgd.linear_lr(1 / steps, step, steps=steps) for step in range(steps))
    assert way == pytest.approx(0.5, abs=0.01)


def test_parameters_that_need_gradients_are_moved_in_place() -> None:
    param = torch.zeros(3, requires_grad=True)
    place = param.data_ptr()
    signsgd.step([param], [torch.ones(3)], state=signsgd.init(1.0, 2))
    assert param.data_ptr() == place
    assert param.is_leaf
    assert param.tolist() == [-1.0, -1.0, -1.0]


def test_nothing_to_move_is_a_step_too() -> None:
    assert signsgd.step([], [], state=signsgd.init(1.0, 2)).step == 1


def test_a_gradient_for_every_parameter() -> None:
    with pytest.raises(ValueError, match="shorter"):
        signsgd.step([torch.zeros(1)], [], state=signsgd.init(1.0, 2))
