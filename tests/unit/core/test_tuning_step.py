"""core/tuning_step.py: a recorded step is told its number, and what it is tried with moves nothing.

tests/backends/test_launches.py has whole steps recorded on a device that is none.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from autoround.core.ops import TorchOps
from autoround.core.reconstruction import DeviceHooks, Step
from autoround.core.rounding import Rounding
from autoround.core.rtn import round_to_nearest
from autoround.core.tuning_step import TuningStep

from ._toy import hyperparameters, problem


def parts(iterate: dict[str, Rounding]) -> list[Tensor]:
    return [part.detach().clone() for rounding in iterate.values() for part in rounding]


class Trying:
    """Does a step several times with what it is given as examples, as a recording is made."""

    def __init__(self) -> None:
        self.moved: list[bool] = []
        self.numbers: list[int] = []

    def __call__(self, step: Step, examples: Sequence[Tensor]) -> Step:
        self.numbers.append(int(examples[0]))
        for _ in range(3):
            before = parts(self.iterate)
            step(examples)
            self.moved.append(not all(map(torch.equal, before, parts(self.iterate))))

        def play(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
            self.numbers.append(int(tensors[0]))
            return step(tensors)

        return play

    iterate: dict[str, Rounding]


@pytest.mark.parametrize("minmax_lr", [None, 0.0])
@pytest.mark.parametrize("masked", [False, True])
def test_steps_by_their_number_end_where_plain_ones_do(
    masked: bool, minmax_lr: float | None
) -> None:
    given, times = problem(3, masked=masked), hyperparameters(5, minmax_lr=minmax_lr)
    trying = Trying()
    ends, losses = [], []
    for capture in (None, trying):
        iterate = round_to_nearest(given.targets)
        trying.iterate = iterate
        block = given._replace(hooks=DeviceHooks(capture=capture), capturable=capture is not None)
        steps = TuningStep(block, iterate, times, ops=TorchOps(), dtype=torch.float32)
        losses.append([float(steps.take(step)) for step in range(1, 6)])
        ends.append(parts(iterate))
    assert all(map(torch.equal, *ends))
    assert losses[0] == losses[1]
    assert trying.moved == [False] * 3, "a step that is tried moves nothing"
    assert trying.numbers == [5, 0, 1, 2, 3, 4]


@pytest.mark.parametrize("recorded", [False, True])
def test_targets_move_at_rates_of_their_own(recorded: bool) -> None:
    given = problem(3)
    names = list(given.targets)
    assert len(names) > 1
    times = hyperparameters(4)._replace(
        lr=0.25, minmax_lr=0.125, own_lrs={names[-1]: (0.0625, 0.03125)}
    )
    trying = Trying()
    iterate = round_to_nearest(given.targets)
    trying.iterate = iterate
    hooks = DeviceHooks(capture=trying if recorded else None)
    block = given._replace(hooks=hooks, capturable=recorded)
    before = {name: [part.detach().clone() for part in r] for name, r in iterate.items()}
    steps = TuningStep(block, iterate, times, ops=TorchOps(), dtype=torch.float32)
    steps.take(1)
    for name, rounding in iterate.items():
        lr, minmax_lr = times.lrs(name)
        for part, old, rate in zip(rounding, before[name], (lr, minmax_lr, minmax_lr), strict=True):
            moved = (part.detach() - old).abs()
            assert set(moved.flatten().tolist()) <= {0.0, rate}
            assert moved.max() == rate, "most weights move"


@pytest.mark.parametrize("options", [{"grad_accum_steps": 2}, {"micro_batch": 2}])
def test_a_step_of_several_parts_is_not_recorded(options: dict[str, int]) -> None:
    def refuse(step: Step, examples: Sequence[Tensor]) -> Step:
        raise AssertionError("it is no function of one batch")

    given = problem()._replace(hooks=DeviceHooks(capture=refuse), capturable=True)
    times = hyperparameters(2, **options)  # type: ignore[arg-type]
    iterate = round_to_nearest(given.targets)
    steps = TuningStep(given, iterate, times, ops=TorchOps(), dtype=torch.float32)
    assert float(steps.take(1)) > 0


def test_steps_that_are_finished_leave_no_memory_to_the_garbage_collector() -> None:
    trying = Trying()
    given = problem()._replace(hooks=DeviceHooks(capture=trying), capturable=True)
    trying.iterate = iterate = round_to_nearest(given.targets)
    steps = TuningStep(given, iterate, hyperparameters(2), ops=TorchOps(), dtype=torch.float32)
    steps.take(1)
    alive = weakref.ref(steps)
    steps.finish()
    gc.collect()
    gc.disable()
    try:
        # The recording refers to the object whose step it plays, and is gone with it.
        del steps
        assert alive() is None
    finally:
        gc.enable()
