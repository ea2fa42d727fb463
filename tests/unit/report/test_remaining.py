"""The time that is left, against runs whose every phase takes a known time."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from autoround.events import (
    BlockDone,
    EndToEndStep,
    Finished,
    Judged,
    Planned,
    StageStarted,
    StepDone,
    WindowScored,
)
from autoround.planning.tail import tail_seconds
from autoround.planning.work import plan_work
from autoround.report.remaining import Remaining
from autoround.types import Estimate, Plan

from ._values import ESTIMATE, plan, result

BLOCKS = 30
AFTER = tail_seconds(plan(), ESTIMATE.disk_bytes)


def plan_with_data(values: dict[str, object] | None = None) -> Plan:
    made = plan(values=values)
    return replace(made, tuning=replace(made.tuning, nsamples=4, seqlen=16, needs_data=True))


class Run:
    """A run on a clock of its own."""

    def __init__(
        self, planned: Plan, *, device_bytes: int = 0, estimate: Estimate = ESTIMATE
    ) -> None:
        self.now = 0.0
        self.remaining = Remaining(lambda: self.now)
        self.remaining(Planned(planned, replace(estimate, device_bytes=device_bytes)))
        self.start("tune")

    def start(self, stage: str, detail: str = "") -> None:
        self.remaining(StageStarted(stage, detail))

    def block(self, index: int, *, before: float, step: float, after: float) -> None:
        """Tune a block of 10 steps."""
        self.now += before
        for number in range(1, 11):
            self.now += step
            self.remaining(StepDone(index, number, 10, 0.1))
        self.now += after
        self.remaining(BlockDone(result(index, seconds=before + 10 * step + after), BLOCKS))

    @property
    def left(self) -> float:
        seconds = self.remaining.seconds()
        assert seconds is not None
        return seconds


#: A probe's: 0.8 to 1.25 of 200 seconds.
PROBED = replace(ESTIMATE, seconds_low=160.0, seconds_high=250.0, probed=(("steps", 200.0),))


def test_nothing_is_told_before_anything_is_known() -> None:
    run = Run(plan(), estimate=replace(ESTIMATE, seconds_high=math.inf))
    assert run.remaining.seconds() is None
    run.remaining(StepDone(0, 1, 10, 0.1))
    assert run.remaining.seconds() is None


def test_without_steps_only_a_probe_knows_the_time() -> None:
    without = plan(values={"tuning.iters": 0})
    assert Run(without).remaining.seconds() is None
    assert Run(without, estimate=PROBED).left == pytest.approx(200.0)


def test_the_first_time_left_is_the_estimate() -> None:
    assert Run(plan()).left == pytest.approx(math.sqrt(80.0 * 600.0))
    run = Run(plan(), estimate=PROBED)
    assert run.left == pytest.approx(200.0)
    run.now = 10.0
    assert run.left == pytest.approx(190.0)
    # The first step alone tells no pace.
    run.remaining(StepDone(0, 1, 10, 0.1))
    assert run.left == pytest.approx(190.0)


def test_a_probed_estimate_holds_end_to_end_tuning_a_gate_and_all_passes() -> None:
    values = {"end_to_end.steps": 50, "evaluation.gate": "kl<=1"}
    planned = plan_with_data(values)
    for each in (planned, replace(planned, further=(planned,))):
        assert Run(each, estimate=PROBED).left == pytest.approx(200.0)


def test_a_first_block_that_takes_longer_than_planned_will_not_be_the_only_one() -> None:
    run = Run(plan(), estimate=PROBED)
    run.now = 150.0
    assert run.left > 150.0
    # Where kernels are made it may well be.
    run = Run(plan(), estimate=PROBED, device_bytes=1)
    run.now = 150.0
    assert 90.0 < run.left < 150.0


def test_a_resumed_run_begins_with_the_blocks_that_are_left() -> None:
    run = Run(plan(), estimate=PROBED)
    run.start("resume", "1 of 2 blocks are done")
    run.start("tune")
    assert run.left == pytest.approx((200.0 - AFTER) / 2 + AFTER)


def test_what_comes_before_the_first_block_is_not_counted_for_each() -> None:
    run = Run(plan())
    run.now += 60.0
    for number in range(1, 11):
        run.now += 1.0
        run.remaining(StepDone(0, number, 10, 0.1))
    run.remaining(BlockDone(result(0, seconds=10.0), BLOCKS))
    assert run.left == pytest.approx((BLOCKS - 1) * 10.0 + AFTER)


def test_it_holds_from_the_first_block_on() -> None:
    run = Run(plan())
    for index in range(BLOCKS):
        run.block(index, before=2.0, step=1.0, after=1.0)
        true = (BLOCKS - 1 - index) * 13.0 + AFTER
        assert run.left == pytest.approx(true, rel=0.1)


def test_the_steps_of_the_first_block_tell_of_the_rest() -> None:
    run = Run(plan())
    run.now += 2.0
    for number in range(1, 6):
        run.now += 1.0
        run.remaining(StepDone(0, number, 10, 0.1))
    # The blocks of this plan are two: nobody has said otherwise yet.
    assert run.left == pytest.approx(2 * 12.0 - 6.0 + AFTER, rel=0.2)


@pytest.mark.parametrize("device_bytes", [0, 10**9])
def test_kernels_that_the_first_block_makes_are_not_made_again(device_bytes: int) -> None:
    planned = plan()
    if not device_bytes:
        planned = replace(planned, tuning=replace(planned.tuning, compiled=True))
    run = Run(planned, device_bytes=device_bytes)
    run.block(0, before=100.0, step=1.0, after=50.0)
    assert run.left == pytest.approx((BLOCKS - 1) * 13.0 + AFTER, rel=0.5)
    run.block(1, before=2.0, step=1.0, after=1.0)
    assert run.left == pytest.approx((BLOCKS - 2) * 13.0 + AFTER, rel=0.01)


def test_writing_and_verifying_are_counted_after_the_last_block_and_end() -> None:
    run = Run(plan())
    for index in range(BLOCKS):
        run.block(index, before=0.0, step=0.1, after=0.0)
    assert run.left == pytest.approx(AFTER)
    run.start("write", "out")
    run.now += AFTER / 2
    run.start("verify", "a batch")
    assert run.left == pytest.approx(AFTER / 2)
    run.now += 10 * AFTER
    # Longer than foreseen: never nothing while it goes on.
    assert 0 < run.left < AFTER
    run.remaining(Finished("out", 1.0, 1))
    assert run.left == 0.0


def test_a_resumed_run_counts_the_blocks_that_are_left() -> None:
    run = Run(plan())
    for index in (20, 21, 22):
        run.block(index, before=0.0, step=1.0, after=0.0)
    assert run.left == pytest.approx((BLOCKS - 23) * 10.0 + AFTER)


def test_end_to_end_tuning_counts_by_its_work_and_then_by_its_steps() -> None:
    planned = plan_with_data({"end_to_end.steps": 50})
    work = plan_work(planned)
    run = Run(planned)
    for index in range(BLOCKS):
        run.block(index, before=0.0, step=1.0, after=0.0)
    end_to_end = BLOCKS * 10.0 * work.end_to_end / work.blocks
    assert work.end_to_end > 0
    assert run.left == pytest.approx(end_to_end + AFTER)
    run.start("end_to_end", "50 steps")
    run.now += 20.0
    run.remaining(EndToEndStep(10, 50, 0.1))
    assert run.left == pytest.approx(80.0 + AFTER)


def test_a_gate_counts_by_its_work_and_then_by_its_windows() -> None:
    run = Run(plan_with_data({"evaluation.gate": "kl<=1"}))
    for index in range(BLOCKS):
        run.block(index, before=0.0, step=1.0, after=0.0)
    assert run.left > AFTER
    run.remaining(Finished("out", 1.0, 1))
    assert run.left > 0
    run.start("gate", "kl<=1")
    run.now += 3.0
    run.remaining(WindowScored(1, 4))
    assert run.left == pytest.approx(9.0)
    run.remaining(Judged("out", "kl<=1", None))
    run.remaining(Finished("out", 1.0, 1))
    assert run.left == 0.0


def test_every_pass_over_the_blocks_counts() -> None:
    planned = plan()
    run = Run(replace(planned, further=(planned,)))
    run.start("pass", "1 of 2: auto_round")
    for index in range(BLOCKS):
        run.block(index, before=0.0, step=1.0, after=0.0)
    second = BLOCKS * 10.0
    assert run.left == pytest.approx(second + AFTER, rel=0.01)
    run.start("pass", "2 of 2: auto_awq")
    run.block(0, before=0.0, step=1.0, after=0.0)
    assert run.left == pytest.approx(second - 10.0 + AFTER / 2, rel=0.02)


def test_without_steps_blocks_take_what_blocks_took() -> None:
    run = Run(plan())
    run.now += 5.0
    run.remaining(BlockDone(result(0, seconds=0.1), BLOCKS))
    assert run.left == pytest.approx((BLOCKS - 1) * 0.1 + AFTER)
