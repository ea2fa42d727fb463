from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autoround.core.loss import block_mse, relative_square_error
from autoround_backends import reference

from ._cases import few


@few
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 9)),
    masked=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    seed=st.integers(0, 2**31),
)
def test_loss_agrees_with_the_oracle(
    shape: tuple[int, int, int], masked: bool, dtype: torch.dtype, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    output, target = (torch.from_numpy(rng.normal(size=shape)).to(dtype) for _ in range(2))
    mask = torch.from_numpy(rng.random(shape[:2]) < 0.6) if masked else None
    loss = block_mse(output, target, mask)
    assert loss.dtype == torch.float32
    assert loss.shape == ()
    expected = reference.masked_mse(
        output.double().numpy(), target.double().numpy(), None if mask is None else mask.numpy()
    )
    assert float(loss) == pytest.approx(expected, rel=1e-5, abs=1e-12)


def test_padding_neither_counts_nor_dilutes() -> None:
    output = torch.tensor([[[1.0, 3.0], [100.0, 100.0]]])
    mask = torch.tensor([[True, False]])
    assert float(block_mse(output, torch.zeros(1, 2, 2), mask)) == 5.0
    everything = torch.tensor([[True, True]])
    assert block_mse(output, torch.zeros(1, 2, 2), everything) == block_mse(
        output, torch.zeros(1, 2, 2)
    )


def test_padding_gets_no_gradient() -> None:
    output = torch.ones(2, 3, 4, requires_grad=True)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    (grad,) = torch.autograd.grad(block_mse(output, torch.zeros(2, 3, 4), mask), [output])
    assert torch.equal((grad != 0).any(-1), mask)
    np.testing.assert_allclose(grad[mask].numpy(), 2.0 / (3 * 4), rtol=1e-6)


def test_a_batch_of_nothing_but_padding_has_no_loss() -> None:
    mask = torch.zeros(1, 2, dtype=torch.bool)
    assert float(block_mse(torch.ones(1, 2, 3), torch.zeros(1, 2, 3), mask)) == 0.0


def test_short_floats_are_subtracted_in_float32() -> None:
    # In bfloat16 the difference of neighbours is exact, its square of small ones is not.
    output = torch.full((1, 1, 4), 1.0, dtype=torch.bfloat16)
    target = torch.full((1, 1, 4), 1.0 + 2**-7, dtype=torch.bfloat16)
    assert float(block_mse(output, target)) == 2.0**-14


def test_streams_of_a_token_count_as_one_position() -> None:
    generator = torch.Generator().manual_seed(5)
    output, target = torch.randn(2, 3, 4, 7, 5, generator=generator)
    mask = torch.tensor([[True, True, False, True], [True, False, False, False], [True] * 4])
    squares = (output.double() - target.double()).square().mean(dim=(2, 3)).numpy()
    wanted = squares[mask.numpy()].mean()
    assert float(block_mse(output, target, mask)) == pytest.approx(wanted, rel=1e-6)


def test_an_error_is_relative_to_what_was_expected() -> None:
    expected = torch.tensor([3.0, -4.0])
    assert relative_square_error(expected * 1.1, expected) == pytest.approx(0.01, rel=1e-5)
    assert relative_square_error(expected, expected) == 0.0
    assert not relative_square_error(expected * float("nan"), expected) <= 1.0
