"""The time that is left of a run, from the pace of its blocks and what a plan knows of the rest."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from autoround.events import (
    BlockDone,
    EndToEndStep,
    Event,
    Finished,
    Judged,
    Planned,
    StageStarted,
    StepDone,
    WindowScored,
)

#: What comes before and after the steps of a block takes at most these shares of their time; it is
#: a half and a sixth in the blocks of SmolLM2-135M with 40 steps, and less with more.
BEFORE, AFTER = 0.6, 0.25
#: Blocks whose mean is that of those to come.
RECENT = 8
#: Share of a phase's own estimate that is left at least, until it has ended: estimates end early.
LEAST = 0.05


class Remaining:
    """Learns from the events of a run, and says how many seconds are left.

    Until the first steps, a block takes what the plan's estimate leaves for it, or what it has
    taken already. Then its time is that of its steps and of what is around them. Where kernels are
    compiled or recorded the first block takes longer than any other: of what comes before and after
    its steps no more counts than a share of their time.

    Args:
        clock: seconds that only ever grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._phase, self._phase_began = "", clock()
        self._blocks, self._passes, self._number = 0, 1, 1
        self._next_block = 0
        self._block_began = clock()
        self._first_step = self._last_step = 0.0
        self._intervals: list[float] = []
        self._first_block: float | None = None
        self._planned_block: float | None = None
        self._seen = False
        self._after = 0.0
        # Relative to the work of the blocks of one pass.
        self._end_to_end = self._gate = self._gate_start = 0.0
        self._warms_up = False
        self._fraction = 0.0

    def __call__(self, event: Event) -> None:
        """Learn from an event.

        Args:
            event: the next one of the run.
        """
        if isinstance(event, Planned):
            self._plan(event)
        elif isinstance(event, StageStarted):
            self._start(event)
        elif isinstance(event, StepDone):
            self._step(event)
        elif isinstance(event, BlockDone):
            self._block(event)
        elif isinstance(event, EndToEndStep):
            self._fraction = event.step / event.steps
        elif isinstance(event, WindowScored):
            self._fraction = event.window / event.windows
        elif isinstance(event, Finished):
            self._enter("finished")
        elif isinstance(event, Judged):
            self._gate = self._gate_start = 0.0

    def seconds(self) -> float | None:
        """Return the seconds that are left; None before anything can be told."""
        spent = self._clock() - self._phase_began
        if self._phase == "finished":
            return self._gate_seconds()
        if self._phase == "gate":
            return self._by_fraction(spent, self._gate_seconds())
        if self._phase in ("write", "verify"):
            left = max(LEAST * self._after, self._after - spent)
            return left + self._later_passes() + self._gate_seconds()
        if self._block_seconds() is None:
            return None
        end_to_end = self._end_to_end * self._pass_seconds()
        rest = self._after + self._later_passes() + self._gate_seconds()
        if self._phase == "end_to_end":
            return self._by_fraction(spent, end_to_end) + rest
        return self._blocks_left() + end_to_end + rest

    def _plan(self, event: Planned) -> None:
        # Not at the top of the module: a screen is drawn before torch is imported.
        from autoround.planning.tail import load_seconds, tail_seconds
        from autoround.planning.work import plan_work

        self._blocks, self._passes = len(event.plan.blocks), len(event.plan.passes)
        work = plan_work(event.plan)
        if work.blocks:
            # What blocks take is measured with the fresh samples that run through them.
            self._end_to_end = work.end_to_end / (work.blocks + work.fresh)
            self._gate = work.gate / work.blocks
        self._warms_up = event.plan.compiled or event.estimate.device_bytes > 0
        if work.gate:
            # The result and the original are loaded for it.
            self._gate_start = load_seconds(event.estimate.source_bytes)
        share = event.estimate.disk_bytes / self._passes
        self._after = tail_seconds(event.plan, share)
        self._planned_block = self._by_plan(event)

    def _by_plan(self, event: Planned) -> float | None:
        """Return the seconds that an estimate leaves for a block; None where it knows nothing."""
        estimate = event.estimate
        # Without steps the range is of reading and writing, and says little.
        known = event.plan.tuning.iters > 0 or bool(estimate.probed)
        if not (known and self._blocks and math.isfinite(estimate.seconds_high)):
            return None
        middle = math.sqrt(estimate.seconds_low * estimate.seconds_high)
        blocks = middle - self._passes * self._after
        if estimate.probed:
            blocks -= self._gate_start
        counted = self._passes * (1 + self._end_to_end) + self._gate * bool(estimate.probed)
        return max(0.0, blocks) / (self._blocks * counted) or None

    def _start(self, event: StageStarted) -> None:
        if event.stage == "pass":
            self._number = int(event.detail.split()[0])
            self._next_block = 0
        if event.stage == "resume" and self._passes == 1:
            self._next_block = _leading_number(event.detail)
        if event.stage in ("tune", "pass"):
            self._enter("tune")
        elif event.stage in ("end_to_end", "write", "gate"):
            self._enter(event.stage)

    def _enter(self, phase: str) -> None:
        self._phase, self._phase_began, self._fraction = phase, self._clock(), 0.0
        self._block_began, self._first_step = self._phase_began, 0.0

    def _step(self, event: StepDone) -> None:
        self._last_step = self._clock()
        self._first_step = self._first_step or self._last_step
        self._fraction = event.step / event.steps
        self._next_block = event.block
        if not self._intervals and event.step > 1:
            steps = (self._last_step - self._first_step) / (event.step - 1) * event.steps
            self._first_block = self._around(steps, after=0.0)

    def _around(self, steps: float, *, after: float) -> float:
        """Return the seconds of a block with the time before and after its steps."""
        before = self._first_step - self._block_began
        if self._warms_up:
            before, after = min(before, BEFORE * steps), min(after, AFTER * steps)
        return before + steps + after

    def _block(self, event: BlockDone) -> None:
        now, self._blocks = self._clock(), event.blocks
        if not self._first_step:
            self._first_block = self._first_block or event.result.seconds
        elif not self._intervals:
            # What follows the steps: the streams that go on, and the record on the disk.
            steps = self._last_step - self._first_step
            # It was begun late: after the model had been traced and the tokens embedded.
            latest = min(now - event.result.seconds, self._first_step)
            self._block_began = max(self._block_began, latest)
            self._first_block = self._around(steps, after=now - self._last_step)
        if self._seen or self._number > 1:
            self._intervals.append(now - self._block_began)
        self._seen = True
        self._next_block = event.result.index + 1
        self._block_began, self._first_step, self._fraction = now, 0.0, 0.0

    def _block_seconds(self) -> float | None:
        """Return the seconds of a block that is like those before; None where none was seen."""
        if self._intervals:
            recent = self._intervals[-RECENT:]
            return sum(recent) / len(recent)
        if self._first_block is not None or self._planned_block is None:
            return self._first_block
        if self._warms_up or self._phase != "tune":
            return self._planned_block
        # One that takes longer than planned will not be the only one.
        return max(self._planned_block, self._clock() - self._block_began)

    def _pass_seconds(self) -> float:
        return self._blocks * (self._block_seconds() or 0.0)

    def _later_passes(self) -> float:
        """Return the seconds of the passes that follow this one."""
        single = self._pass_seconds() * (1 + self._end_to_end) + self._after
        return (self._passes - self._number) * single

    def _blocks_left(self) -> float:
        """Return the seconds of the blocks of this pass that are not done."""
        each = self._block_seconds() or 0.0
        left = self._blocks - self._next_block
        if left < 1:
            return 0.0
        begun = min(self._clock() - self._block_began, (1 - LEAST) * each)
        if self._fraction and self._first_block is not None and not self._intervals:
            # Of a first block, the steps say how far it is.
            begun = min(self._fraction, 1 - LEAST) * each
        return left * each - begun

    def _gate_seconds(self) -> float:
        return self._gate * self._pass_seconds() + self._gate_start

    def _by_fraction(self, spent: float, expected: float) -> float:
        """Return what is left of a phase that tells how much of it is done."""
        if self._fraction:
            return spent / self._fraction * (1 - self._fraction)
        return max(LEAST * expected, expected - spent)


def _leading_number(text: str) -> int:
    """Return the number that a text begins with; 0 for none."""
    first = text.split(" ", 1)[0]
    return int(first) if first.isdecimal() else 0
