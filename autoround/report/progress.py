"""What the user sees while a run goes on: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console
from rich.control import Control
from rich.markup import escape
from rich.segment import ControlType

from autoround.events import (
    BlockDone,
    EndToEndStep,
    Event,
    Finished,
    Planned,
    Scored,
    StageStarted,
    StepDone,
    Warned,
)
from autoround.report.plan import plan_lines
from autoround.types import FEW_TOKENS, BlockResult

#: Seconds between refreshes of the live line.
REFRESH = 0.2


class Progress:
    """A sink that prints events."""

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._started = clock()
        self._shown = 0.0
        self._blocks = 0
        self._seconds: list[float] = []

    def __call__(self, event: Event) -> None:
        """Print an event."""
        if isinstance(event, Planned):
            self._blocks = len(event.plan.blocks)
            for line in plan_lines(event.plan, event.estimate):
                self._print(line)
        elif isinstance(event, StageStarted):
            self._started = self._clock() if event.stage == "tune" else self._started
            self._print(f"{event.stage}: {event.detail}" if event.detail else event.stage)
        elif isinstance(event, StepDone):
            self._live(event)
        elif isinstance(event, BlockDone):
            self._block(event)
        elif isinstance(event, EndToEndStep):
            self._distill(event)
        elif isinstance(event, Scored):
            self._scored(event)
        elif isinstance(event, Warned):
            self._print(f"warning: {event.message}")
        elif isinstance(event, Finished):
            size = f"{event.disk_bytes / 1e6:.1f} MB"
            self._print(f"done: {event.output_dir}, {size}, {duration(event.seconds)}")

    def _block(self, event: BlockDone) -> None:
        result = event.result
        self._seconds.append(result.seconds)
        left = (event.blocks - len(self._seconds)) * sum(self._seconds) / len(self._seconds)
        loss = (
            f"loss {result.loss_before:.3e} → {result.loss_after:.3e}"
            if result.loss_before == result.loss_before
            else "rounded to nearest"
        )
        self._clear()
        self._print(
            f"block {result.index + 1}/{event.blocks}  {loss}  {result.seconds:.1f} s  "
            f"ETA {duration(left)}  peak {result.peak_bytes / 1e9:.2f} GB" + expert_words(result)
        )

    def _live(self, event: StepDone) -> None:
        now = self._clock()
        if not self._is_live or now - self._shown < REFRESH:
            return
        self._shown = now
        self._clear()
        text = (
            f"block {event.block + 1}/{self._blocks}  step {event.step}/{event.steps}  "
            f"loss {event.loss:.3e}"
        )
        self._print(text, end="")

    def _distill(self, event: EndToEndStep) -> None:
        if event.before is not None:
            self._clear()
            kept = "" if event.loss < event.before else "; no better, so the scales stay as before"
            self._print(f"distill  KL {event.before:.3e} → {event.loss:.3e}{kept}")
            return
        text = f"distill  step {event.step}/{event.steps}  KL {event.loss:.3e}"
        if self._is_live:
            self._clear()
            self._print(text, end="")
        elif event.step % max(1, event.steps // 10) == 0:
            self._print(text)

    def _scored(self, event: Scored) -> None:
        done = event.blocks - event.block
        text = f"score  block {done}/{event.blocks}, the last first"
        if self._is_live:
            self._clear()
            self._print(text, end="" if event.block else "\n")
        elif done % max(1, event.blocks // 10) == 0:
            self._print(text)

    @property
    def _is_live(self) -> bool:
        return self._console.is_terminal and not self._console.is_dumb_terminal

    def _clear(self) -> None:
        """Go back to the start of the line and empty it, where there is a line to redraw."""
        if self._is_live:
            # As a control: rich takes carriage returns out of texts.
            self._console.control(
                Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 0))
            )

    def _print(self, line: str, *, end: str = "\n") -> None:
        self._console.print(escape(line), end=end, highlight=False, soft_wrap=True)


def expert_words(result: BlockResult) -> str:
    """Say how many tokens came to the experts of a block; empty where there are none."""
    counts = [seen for every in result.expert_tokens.values() for seen in every]
    if not counts:
        return ""
    few = sum(seen < FEW_TOKENS for seen in counts)
    words = f"  experts saw {min(counts)} to {max(counts)} tokens"
    return words + (f", {few} of {len(counts)} too few to be tuned" if few else "")


def duration(seconds: float) -> str:
    """Write a time span the way people say it: 42 s, 3 min 20 s, 2 h 05 min."""
    if seconds == float("inf"):
        return "unknown"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
