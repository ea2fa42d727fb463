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
    Judged,
    Planned,
    StageStarted,
    StepDone,
    Warned,
)
from autoround.report.plan import plan_lines
from autoround.report.progress import Progress, Verbosity
from autoround.types import EngineFinding, EvalResult

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
    # From the second block on the clock counts, whatever the first one had to make first.
    screen.clock.now += 10
    second = screen.show(BlockDone(result(1, seconds=9.0), 4))
    assert second.startswith("block 2/4  ")
    assert "  ETA 20 s  " in second


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


def test_long_lines_break_between_words_on_a_terminal_alone() -> None:
    note = " ".join(["word"] * 30)
    event = Planned(plan(notes=(note,)), ESTIMATE)
    assert f"note         {note}" in Screen().show(event)
    lines = Screen(terminal="xterm").show(event).splitlines()
    words = [line for line in lines if "word" in line]
    assert words[0] == "note         word word word word word"
    assert words[1] == "             word word word word word"
    assert all(len(line) <= 40 for line in words)


def test_quiet_tells_warnings_alone_and_verbose_layers_and_steps() -> None:
    events = (
        Planned(plan(), ESTIMATE),
        Warned("mind this"),
        StepDone(0, 1, 200, 0.5),
        BlockDone(result(0), 2),
        Finished("out", 1.0, 2),
    )
    told = {}
    for verbosity in Verbosity:
        out, clock = io.StringIO(), Clock()
        progress = Progress(Console(file=out, width=80), clock=clock, verbosity=verbosity)
        for event in events:
            clock.now += 60
            progress(event)
        told[verbosity] = out.getvalue()
    assert told[Verbosity.QUIET] == "warning: mind this\n"
    assert "step 1/200" not in told[Verbosity.NORMAL]
    assert "block 1  step 1/200  loss 5.000e-01\n" in told[Verbosity.VERBOSE]
    assert "h.0.gate" in told[Verbosity.VERBOSE]


def test_a_terminal_has_a_region_while_the_context_lasts() -> None:
    screen = Screen(terminal="xterm", width=80)
    with screen.progress as progress:
        progress(Planned(plan(), ESTIMATE))
        progress(StepDone(0, 1, 200, 0.5))
    text = screen.out.getvalue()
    assert "loading libraries, model and text" in text
    # The cursor is hidden and shown again.
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1
    # Afterwards lines are lines.
    assert "\x1b" not in screen.show(Warned("later"))


def test_a_verdict_is_told_with_its_figures() -> None:
    figures = EvalResult(10.5, 100, 10.0, 0.05, 0.9)
    text = Screen().show(Judged("out", "ppl<=1.1x", figures))
    assert "perplexity of the quantized  10.500  (+5.0 %)" in text
    assert text.endswith("gate passed: ppl<=1.1x, out\n")
    assert Screen().show(Judged("out", "kl<=1", None, ("NaN",))) == "gate missed: kl<=1, out\n"


def test_end_to_end_steps_are_told_in_tenths_and_their_validation_at_the_end() -> None:
    text = Screen().show(
        *(EndToEndStep(step, 40, 0.5) for step in range(1, 41)), EndToEndStep(40, 40, 0.4, 0.6)
    )
    lines = text.splitlines()
    assert len(lines) == 11
    assert lines[0] == "end-to-end  step 4/40  KL 5.000e-01"
    assert lines[-1] == "end-to-end  KL 6.000e-01 → 4.000e-01"


def test_a_stage_that_ended_early_is_told() -> None:
    text = Screen().show(EndToEndStep(20, 100, 0.7, 0.6))
    assert text == (
        "end-to-end  KL 6.000e-01 → 7.000e-01; no better after 20 of 100 steps, so the scales stay "
        "as before\n"
    )


def test_steps_that_did_no_good_are_told() -> None:
    text = Screen().show(EndToEndStep(3, 3, 0.7, 0.6))
    assert text == "end-to-end  KL 6.000e-01 → 7.000e-01; no better, so the scales stay as before\n"
