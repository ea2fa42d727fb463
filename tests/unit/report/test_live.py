"""The live region: what stands in it in each phase, and that it fits the terminal."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from autoround.events import (
    BlockDone,
    EndToEndStep,
    Event,
    Judged,
    Planned,
    Scored,
    StageStarted,
    StepDone,
    WindowScored,
)
from autoround.report.live import LiveView, fit_items
from autoround.report.remaining import Remaining

from ._values import ESTIMATE, plan, result


class Region:
    """A region, drawn when it is asked for."""

    def __init__(self, width: int) -> None:
        self.now = 0.0
        self.width = width
        self.remaining = Remaining(lambda: self.now)
        console = Console(file=io.StringIO(), width=width, force_terminal=True)
        self.view = LiveView(console, self.remaining, clock=lambda: self.now)

    def show(self, *events: Event) -> list[str]:
        for event in events:
            self.remaining(event)
            self.view(event)
        plain = Console(file=io.StringIO(), width=self.width, color_system=None)
        with plain.capture() as drawn:
            plain.print(self.view.render())
        return [line.rstrip() for line in drawn.get().splitlines()]


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    region = Region(width)
    phases: list[Event] = [
        StageStarted("score", "2 blocks"),
        Scored(1, 2),
        Planned(plan(), replace(ESTIMATE, device_bytes=1)),
        StageStarted("tune", "2 blocks"),
        StepDone(0, 199, 200, 0.1),
        BlockDone(result(0), 2),
        StageStarted("end_to_end", "9 steps"),
        EndToEndStep(1, 9, 0.1),
        StageStarted("write", "out"),
        StageStarted("verify", "a batch"),
        StageStarted("gate", "kl<=1"),
        WindowScored(1, 4),
    ]
    for event in phases:
        lines = region.show(event)
        assert 1 <= len(lines) <= 2
        assert all(len(line) <= width for line in lines), lines


def test_a_block_at_work_has_its_step_its_loss_and_the_time_left() -> None:
    region = Region(80)
    # The middle of 80 to 600 seconds.
    (bar, _) = region.show(Planned(plan(), ESTIMATE), StageStarted("tune", "2 blocks"))
    assert "0/2 blocks  ETA 3 min 39 s" in bar
    region.now = 10.0
    bar, work = region.show(StepDone(0, 1, 200, 0.5))
    assert "0/2 blocks  ETA 3 min 29 s" in bar
    assert work.startswith("block 1/2  step 1/200  loss 5.000e-01")
    region.now = 20.0
    bar, work = region.show(BlockDone(result(0, seconds=20.0), 2))
    assert "1/2 blocks  ETA 20 s" in bar
    assert work.startswith("block 2/2  0 s")


def test_phases_without_blocks_have_their_own_words() -> None:
    region = Region(80)
    (start,) = region.show()
    assert start.startswith("loading libraries, model and text  0 s")
    region.show(Planned(plan(), ESTIMATE), BlockDone(result(1), 2))
    region.show(StageStarted("verify", "a batch"))
    region.now = 7.0
    bar, work = region.show()
    assert "2/2 blocks" in bar
    assert work.startswith("verify  7 s")
    assert region.show(StageStarted("gate", ""), WindowScored(3, 4))[1].startswith(
        "gate  window 3/4"
    )
    assert "window" not in region.show(Judged("out", "kl<=1", None))[1]


def test_items_are_left_out_and_never_cut() -> None:
    items = ["block 1/2", "step 1/200", "loss 5.000e-01"]
    assert fit_items(items, 80) == "block 1/2  step 1/200  loss 5.000e-01"
    assert fit_items(items, 30) == "block 1/2  step 1/200"
    assert fit_items(items, 5) == "block 1/2"


def test_what_goes_on_is_not_over() -> None:
    region = Region(80)
    planned = plan()
    region.show(Planned(replace(planned, blocks=planned.blocks[:1]), ESTIMATE))
    region.show(BlockDone(result(0), 1), StageStarted("write", "out"))
    region.now = 60.0
    bar, _ = region.show()
    assert bar.endswith("1/1 block  ETA 1 s")
