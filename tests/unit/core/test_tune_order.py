"""What is drawn when: batches of the loop, and the steps after which it is scored."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autoround.core.batches import Samples, batches
from autoround.core.tune import validation_steps

from ._cases import few


@few
@given(
    size=st.integers(1, 6),
    per_epoch=st.integers(1, 5),
    remainder=st.integers(0, 5),
    seed=st.integers(0, 2**31),
)
def test_an_epoch_takes_every_index_once_but_for_the_remainder(
    size: int, per_epoch: int, remainder: int, seed: int
) -> None:
    left = remainder % size
    count = size * per_epoch + left
    order = batches(count, size, seed=seed)
    for _ in range(3):
        epoch = torch.cat(list(islice(order, per_epoch))).tolist()
        assert len(set(epoch)) == len(epoch) == count - left
        assert set(epoch) <= set(range(count))


def test_epochs_differ_and_a_seed_repeats_them() -> None:
    first, again, other = (
        [b.tolist() for b in islice(batches(32, 8, seed=seed), 8)] for seed in (3, 3, 4)
    )
    assert first == again
    assert first != other
    assert first[:4] != first[4:]


def test_no_global_random_state_is_used() -> None:
    state = torch.get_rng_state()
    next(batches(16, 4, seed=0))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("size", [4, 5, 100])
def test_a_batch_larger_than_everything_is_everything(size: int) -> None:
    order = batches(4, size, seed=0)
    assert [sorted(batch.tolist()) for batch in islice(order, 3)] == [[0, 1, 2, 3]] * 3


@few
@given(iters=st.integers(1, 1000), count=st.integers(1, 20))
def test_scored_steps_lie_in_the_second_half_and_end_with_the_last(iters: int, count: int) -> None:
    steps = validation_steps(iters, count)
    assert max(steps) == iters
    assert all(1 <= step <= iters and 2 * step >= iters for step in steps)
    assert 1 <= len(steps) <= count
    if iters >= 2 * count:
        assert len(steps) == count


def test_scored_steps_are_evenly_spread() -> None:
    assert validation_steps(200, 4) == {125, 150, 175, 200}
    assert validation_steps(200, 1) == {200}
    assert validation_steps(1, 8) == {1}


def test_no_steps_are_never_scored() -> None:
    assert validation_steps(0, 4) == frozenset()


def test_samples_are_taken_by_index() -> None:
    inputs = torch.arange(12.0).reshape(3, 2, 2)
    mask = torch.tensor([[True, True], [True, False], [False, True]])
    taken = Samples(inputs, -inputs, mask).select(torch.tensor([2, 0]), device=torch.device("cpu"))
    assert torch.equal(taken.inputs, inputs[[2, 0]])
    assert torch.equal(taken.targets, -inputs[[2, 0]])
    assert taken.mask is not None
    assert taken.mask.tolist() == [[False, True], [True, True]]
    assert (
        Samples(inputs, inputs, None).select(torch.tensor([1]), device=inputs.device).mask is None
    )
