"""The progress of a run in words: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection

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
from autoround.report.terminal import printable
from autoround.types import FEW_TOKENS, BlockResult

#: Seconds between refreshes of the live line.
REFRESH = 0.2


class Progress:
    """A sink that prints events.

    Args:
        console: what to print on; a live line needs a terminal that can redraw one.
        clock: seconds that only ever grow, for the rate of refreshes.
        engines: serving engines that are asked about; the plan tells what they do.
    """

    def __init__(
        self,
        console: Console,
        *,
        clock: Callable[[], float] = time.monotonic,
        engines: Collection[str] = (),
    ) -> None:
        self._console = console
        self._engines = engines
        self._clock = clock
        self._started = clock()
        self._shown = 0.0
        self._blocks = 0
        self._seconds: list[float] = []

    def __call__(self, event: Event) -> None:
        """Print an event.

        Args:
            event: the next one of the run; they come in the order in which things are done.
        """
        if isinstance(event, Planned):
            self._blocks = len(event.plan.blocks)
            for line in plan_lines(event.plan, event.estimate, engines=self._engines):
                self._print(line)
        elif isinstance(event, StageStarted):
            self._started = self._clock() if event.stage == "tune" else self._started
            self._print(f"{event.stage}: {event.detail}" if event.detail else event.stage)
        elif isinstance(event, StepDone):
            self._live(event)
        elif isinstance(event, BlockDone):
            self._block(event)
        elif isinstance(event, EndToEndStep):
            self._end_to_end(event)
        elif isinstance(event, Scored):
            self._scored(event)
        elif isinstance(event, Warned):
            self._print(f"warning: {event.message}")
        elif isinstance(event, Finished):
            size = f"{event.disk_bytes / 1e6:.1f} MB"
            self._print(f"done: {event.output_dir}, {size}, {format_duration(event.seconds)}")

    def _block(self, event: BlockDone) -> None:
        result = event.result
        self._seconds.append(result.seconds)
        # Blocks are much alike, so those that are left take the mean of those that are done.
        left = (event.blocks - len(self._seconds)) * sum(self._seconds) / len(self._seconds)
        loss = (
            f"loss {result.loss_before:.3e} → {result.loss_after:.3e}"
            if not math.isnan(result.loss_before)
            else "rounded to nearest"
        )
        self._clear()
        self._print(
            f"block {result.index + 1}/{event.blocks}  {loss}  {result.seconds:.1f} s  "
            f"ETA {format_duration(left)}  peak {result.peak_bytes / 1e9:.2f} GB"
            + describe_experts(result)
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

    def _end_to_end(self, event: EndToEndStep) -> None:
        if event.initial_loss is not None:
            self._clear()
            better = event.loss < event.initial_loss
            outcome = "" if better else "; no better, so the scales stay as before"
            self._print(f"end-to-end  KL {event.initial_loss:.3e} → {event.loss:.3e}{outcome}")
            return
        text = f"end-to-end  step {event.step}/{event.steps}  KL {event.loss:.3e}"
        if self._is_live:
            self._clear()
            self._print(text, end="")
        # A log gets ten lines, however many steps there are.
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
        text = escape(printable(line, keep="\t"))
        self._console.print(text, end=end, highlight=False, soft_wrap=True)


def describe_experts(result: BlockResult) -> str:
    """Say how many calibration tokens the experts of a block received; empty without experts.

    Args:
        result: of a block that is done.
    """
    counts = [tokens for module in result.expert_tokens.values() for tokens in module]
    if not counts:
        return ""
    few = sum(tokens < FEW_TOKENS for tokens in counts)
    text = f"  experts received {min(counts)} to {max(counts)} tokens"
    return text + (f", {few} of {len(counts)} too few to be tuned" if few else "")


def format_duration(seconds: float) -> str:
    """Write a time span the way people say it: 42 s, 3 min 20 s, 2 h 05 min.

    Args:
        seconds: not negative; infinite where nobody knows.
    """
    if math.isinf(seconds):
        return "unknown"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
