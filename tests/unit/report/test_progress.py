from __future__ import annotations

import io
import math
from dataclasses import replace

import pytest
from rich.console import Console

from autoround.events import (
    BlockDone,
    EndToEndStep,
    Event,
    Finished,
    Planned,
    StageStarted,
    StepDone,
    Warned,
)
from autoround.report.plan import plan_lines
from autoround.report.progress import REFRESH, Progress, format_duration
from autoround.types import EngineFinding

from ._values import ESTIMATE, plan, result

NAN = math.nan


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Screen:
    """A progress report, and what it has printed."""

    def __init__(self, *, terminal: str | None = None, width: int = 40) -> None:
        self.out = io.StringIO()
        self.clock = Clock()
        console = Console(
            file=self.out,
            force_terminal=terminal is not None,
            width=width,
            _environ={"TERM": terminal or "xterm"},
        )
        self.progress = Progress(console, clock=self.clock)

    def show(self, *events: Event) -> str:
        before = len(self.out.getvalue())
        for event in events:
            self.progress(event)
        return self.out.getvalue()[before:]


def test_a_plan_is_printed_whole() -> None:
    text = Screen().show(Planned(plan(notes=("kept [bold]as is[/bold]",)), ESTIMATE))
    # Neither wrapped at the width nor read as markup.
    assert text.splitlines() == plan_lines(plan(notes=("kept [bold]as is[/bold]",)), ESTIMATE)


def test_engines_that_are_asked_about_are_told_with_the_plan() -> None:
    out = io.StringIO()
    finding = EngineFinding(
        "vllm", "0.32.0", "2026-11-29", "auto_round", "takes", "", "vllm serve FOLDER", "run"
    )
    served = replace(plan(), serving=(finding,))
    Progress(Console(file=out, width=40), engines=("vllm",))(Planned(served, ESTIMATE))
    assert out.getvalue().splitlines() == plan_lines(served, ESTIMATE, engines=("vllm",))
    assert "vLLM 0.32.0 takes auto_round" in out.getvalue()


def test_stages_warnings_and_the_end() -> None:
    screen = Screen()
    assert screen.show(StageStarted("tune", "2 blocks on cpu")) == "tune: 2 blocks on cpu\n"
    assert screen.show(StageStarted("write")) == "write\n"
    assert screen.show(Warned("little memory [1]")) == "warning: little memory [1]\n"
    assert screen.show(Finished("my/out", 200.4, 12_345_678)) == (
        "done: my/out, 12.3 MB, 3 min 20 s\n"
    )


def test_blocks_have_a_line_each_with_the_time_that_is_left() -> None:
    screen = Screen()
    first = screen.show(BlockDone(result(0, seconds=30.0), 4))
    assert first == (
        "block 1/4  loss 1.234e-02 → 4.560e-03  30.0 s  ETA 1 min 30 s  peak 1.50 GB\n"
    )
    second = screen.show(BlockDone(result(1, seconds=10.0), 4))
    assert second.startswith("block 2/4  ")
    assert "  ETA 40 s  " in second
    assert (
        "  ETA 0 s  "
        in screen.show(BlockDone(result(2), 4), BlockDone(result(3), 4)).splitlines()[1]
    )


def test_without_tuning_no_loss_is_shown() -> None:
    text = Screen().show(BlockDone(result(0, loss_before=NAN, loss_after=NAN), 1))
    assert text == "block 1/1  rounded to nearest  30.0 s  ETA 0 s  peak 1.50 GB\n"


@pytest.mark.parametrize("terminal", [None, "dumb"])
def test_steps_are_not_shown_where_a_line_cannot_be_redrawn(terminal: str | None) -> None:
    screen = Screen(terminal=terminal)
    screen.show(Planned(plan(), ESTIMATE))
    for step in range(5):
        screen.clock.now += 10
        assert screen.show(StepDone(0, step, 200, 0.5)) == ""
    block = screen.show(BlockDone(result(0), 2))
    assert block.startswith("block 1/2")
    assert "\x1b" not in block
    assert "\r" not in block


def test_a_terminal_shows_a_line_that_is_redrawn() -> None:
    screen = Screen(terminal="xterm", width=120)
    screen.show(Planned(plan(), ESTIMATE))
    clear = "\r\x1b[0K"
    assert screen.show(StepDone(0, 1, 200, 0.5)) == f"{clear}block 1/2  step 1/200  loss 5.000e-01"
    # Not more often than the eye can follow.
    screen.clock.now += REFRESH / 2
    assert screen.show(StepDone(0, 2, 200, 0.5)) == ""
    screen.clock.now += REFRESH
    assert screen.show(StepDone(0, 3, 200, 0.25)) == (
        f"{clear}block 1/2  step 3/200  loss 2.500e-01"
    )
    block = screen.show(BlockDone(result(0), 2))
    assert block.startswith(f"{clear}block 1/2  loss 1.234e-02")
    assert block.endswith("peak 1.50 GB\n")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (0.4, "0 s"),
        (42, "42 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3599, "59 min 59 s"),
        (3599.7, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (100 * 3600, "100 h 00 min"),
        (math.inf, "unknown"),
    ],
)
def test_a_duration_as_people_say_it(seconds: float, words: str) -> None:
    assert format_duration(seconds) == words


def test_end_to_end_steps_are_told_in_tenths_and_their_validation_at_the_end() -> None:
    text = Screen().show(
        *(EndToEndStep(step, 40, 0.5) for step in range(1, 41)), EndToEndStep(40, 40, 0.4, 0.6)
    )
    lines = text.splitlines()
    assert len(lines) == 11
    assert lines[0] == "end-to-end  step 4/40  KL 5.000e-01"
    assert lines[-1] == "end-to-end  KL 6.000e-01 → 4.000e-01"


def test_steps_that_did_no_good_are_told() -> None:
    text = Screen().show(EndToEndStep(3, 3, 0.7, 0.6))
    assert text == "end-to-end  KL 6.000e-01 → 7.000e-01; no better, so the scales stay as before\n"
