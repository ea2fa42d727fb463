"""core/validation.py: which steps are scored, and which iterate is kept."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given as examples
from hypothesis import strategies as st

from autoround.core.ops import TorchOps
from autoround.core.rounding import Rounding
from autoround.core.rtn import round_to_nearest
from autoround.core.validation import (
    BestIterate,
    Validation,
    copy_roundings,
    validation_loss,
    validation_steps,
)

from ._cases import few
from ._toy import hyperparameters, problem

CPU = torch.device("cpu")
scores = st.lists(
    st.one_of(st.floats(0.0, 4.0), st.just(math.nan), st.just(math.inf)), min_size=1, max_size=8
)


def iterate(number: float) -> dict[str, Rounding]:
    return {name: Rounding(*(torch.full((2, 1), number) for _ in range(3))) for name in ("a", "b")}


@few
@examples(losses=scores, late=st.booleans())
def test_the_lowest_score_is_kept_wherever_it_is_compared(losses: list[float], late: bool) -> None:
    numbers = [torch.tensor(loss, dtype=torch.float64) for loss in losses]
    moving = iterate(0.0)
    best = BestIterate(moving, numbers[0], keep=CPU, late=late)
    wanted, lowest = 0, losses[0]
    for step, loss in enumerate(losses[1:], 1):
        for rounding in moving.values():
            for part in rounding:
                part.fill_(step)  # in place, as steps move it
        best.offer(step, moving, numbers[step])
        if loss < lowest:
            wanted, lowest = step, loss
    tuned = best.result()
    assert tuned.best_step == wanted
    assert str(tuned.loss_before) == str(losses[0])
    assert str(tuned.loss_after) == str(lowest)
    for rounding in tuned.roundings.values():
        assert all(bool((part == wanted).all()) for part in rounding)


def test_a_loss_that_is_no_number_is_told_at_the_end() -> None:
    for late in (False, True):
        best = BestIterate(iterate(0.0), torch.tensor(math.nan), keep=CPU, late=late)
        best.offer(1, iterate(1.0), torch.tensor(0.5))
        tuned = best.result()
        assert math.isnan(tuned.loss_before)
        assert (tuned.best_step, float(tuned.roundings["a"].offset[0])) == (0, 0.0)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("part", [0, 1])
def test_a_score_is_the_mean_over_the_samples(masked: bool, part: int) -> None:
    given = problem(3, masked=masked)
    times = hyperparameters(4, micro_batch=part)
    start = round_to_nearest(given.targets)
    validation = Validation(given, times, ops=TorchOps(), dtype=torch.float32)
    score = validation.score(start)
    assert (score.dtype, score.dim()) == (torch.float64, 0)
    assert torch.equal(score, validation.score(start)), "the same samples at every call"
    found = validation_loss(
        given, start, hyperparameters=times, ops=TorchOps(), dtype=torch.float32
    )
    assert found == float(score) > 0


def test_copies_are_apart_from_what_they_are_copies_of() -> None:
    moving = iterate(1.0)
    copy = copy_roundings(moving, CPU)
    moving["a"].offset.fill_(2.0)
    assert bool((copy["a"].offset == 1.0).all())


@few
@examples(iters=st.integers(1, 1000), count=st.integers(1, 20))
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
