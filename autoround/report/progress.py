"""The progress of a run in words: a live region on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection
from contextlib import ExitStack
from enum import Enum
from types import TracebackType

from rich.console import Console
from rich.markup import escape

from autoround.events import (
    BlockDone,
    EndToEndStep,
    Event,
    Finished,
    Judged,
    Planned,
    Scored,
    StageStarted,
    StepDone,
    Warned,
    WindowScored,
)
from autoround.report.duration import format_duration
from autoround.report.live import LiveView
from autoround.report.remaining import Remaining
from autoround.report.terminal import printable, wrap_words
from autoround.types import FEW_TOKENS, BlockResult

#: Seconds between two lines about steps or windows, where none can be redrawn.
PAUSE = 10.0
#: Columns that the text of a plan begins after.
PLAN_INDENT = 13


class Verbosity(Enum):
    """How much of a run is told: warnings alone, what is done, or steps and layers too."""

    QUIET = 0
    NORMAL = 1
    VERBOSE = 2


class Progress:
    """A sink that prints events, and as a context draws a live region below them.

    Args:
        console: what to print on; a live region needs a terminal that can redraw lines.
        clock: seconds that only ever grow.
        engines: serving engines that are asked about; the plan tells what they do.
        verbosity: how much is told.
        live: whether there is a region while the context lasts; None where the console can.
    """

    def __init__(
        self,
        console: Console,
        *,
        clock: Callable[[], float] = time.monotonic,
        engines: Collection[str] = (),
        verbosity: Verbosity = Verbosity.NORMAL,
        live: bool | None = None,
    ) -> None:
        self._console, self._clock = console, clock
        self._engines, self._verbosity = engines, verbosity
        self._wraps = console.is_terminal
        able = console.is_terminal and not console.is_dumb_terminal if live is None else live
        self._live = able and verbosity is not Verbosity.QUIET
        self._remaining = Remaining(clock)
        self._view: LiveView | None = None
        self._context = ExitStack()
        self._told = clock()

    def __enter__(self) -> Progress:
        if self._live:
            view = LiveView(self._console, self._remaining, clock=self._clock)
            self._view = self._context.enter_context(view)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._view = None
        self._context.close()

    def __call__(self, event: Event) -> None:
        """Print an event.

        Args:
            event: the next one of the run; they come in the order in which things are done.
        """
        self._remaining(event)
        if self._view is not None:
            self._view(event)
        if isinstance(event, Warned):
            self._print(f"warning: {event.message}")
        elif self._verbosity is not Verbosity.QUIET:
            self._tell(event)

    def _tell(self, event: Event) -> None:
        if isinstance(event, Planned):
            self._plan(event)
        elif isinstance(event, StageStarted):
            self._print(f"{event.stage}: {event.detail}" if event.detail else event.stage)
        elif isinstance(event, StepDone):
            self._step(event)
        elif isinstance(event, BlockDone):
            self._block(event)
        elif isinstance(event, EndToEndStep):
            self._end_to_end(event)
        elif isinstance(event, Scored):
            self._scored(event)
        elif isinstance(event, WindowScored):
            self._window(event)
        elif isinstance(event, Judged):
            self._verdict(event)
        elif isinstance(event, Finished):
            size = f"{event.disk_bytes / 1e6:.1f} MB"
            self._print(f"done: {event.output_dir}, {size}, {format_duration(event.seconds)}")

    def _plan(self, event: Planned) -> None:
        # Not at the top of the module: it takes torch, and a screen is drawn before that.
        from autoround.report.plan import layer_lines, plan_lines

        lines = plan_lines(event.plan, event.estimate, engines=self._engines)
        if self._verbosity is Verbosity.VERBOSE:
            lines += layer_lines(event.plan)
        for line in lines:
            self._print(line, indent=PLAN_INDENT)

    def _block(self, event: BlockDone) -> None:
        result = event.result
        loss = (
            f"loss {result.loss_before:.3e} → {result.loss_after:.3e}"
            if not math.isnan(result.loss_before)
            else "rounded to nearest"
        )
        left = self._remaining.seconds()
        eta = "" if left is None else f"ETA {format_duration(left)}  "
        self._print(
            f"block {result.index + 1}/{event.blocks}  {loss}  {result.seconds:.1f} s  "
            f"{eta}peak {result.peak_bytes / 1e9:.2f} GB"
            + (f"  from {result.init_rounding}" if result.init_rounding else "")
            + describe_experts(result)
        )

    def _step(self, event: StepDone) -> None:
        """Tell of a step now and then, where a log is to have steps."""
        if self._verbosity is not Verbosity.VERBOSE or self._view is not None:
            return
        if self._is_time():
            self._print(
                f"block {event.block + 1}  step {event.step}/{event.steps}  loss {event.loss:.3e}"
            )

    def _is_time(self) -> bool:
        """Tell whether the last line of this kind is long ago."""
        now = self._clock()
        if now - self._told < PAUSE:
            return False
        self._told = now
        return True

    def _end_to_end(self, event: EndToEndStep) -> None:
        if event.initial_loss is not None:
            better = event.loss < event.initial_loss
            early = f" after {event.step} of {event.steps} steps" * (event.step < event.steps)
            outcome = "" if better else f"; no better{early}, so the scales stay as before"
            self._print(f"end-to-end  KL {event.initial_loss:.3e} → {event.loss:.3e}{outcome}")
        elif self._view is None and _is_tenth(event.step, event.steps):
            self._print(f"end-to-end  step {event.step}/{event.steps}  KL {event.loss:.3e}")

    def _scored(self, event: Scored) -> None:
        done = event.blocks - event.block
        if done == event.blocks or (self._view is None and _is_tenth(done, event.blocks)):
            self._print(f"score  block {done}/{event.blocks}, the last first")

    def _window(self, event: WindowScored) -> None:
        if self._view is None and self._is_time():
            self._print(f"gate  window {event.window}/{event.windows}")

    def _verdict(self, event: Judged) -> None:
        from autoround.report.evaluation import evaluation_lines

        if event.figures is not None:
            for line in evaluation_lines(event.figures):
                self._print(line)
        outcome = "missed" if event.failures else "passed"
        self._print(f"gate {outcome}: {event.gate}, {event.folder}")

    def _print(self, line: str, *, indent: int = 2) -> None:
        text = printable(line, keep="\t")
        if self._wraps:
            text = wrap_words(text, self._console.width, indent=indent)
        self._console.print(escape(text), highlight=False, soft_wrap=True)


def _is_tenth(done: int, total: int) -> bool:
    """Tell whether to write a line: a log gets about ten, however many there are."""
    return done % max(1, total // 10) == 0


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
