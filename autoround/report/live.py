"""The live region of a run on a terminal: a bar over blocks, the block at work, what is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

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
from autoround.report.duration import count_of, format_duration
from autoround.report.memory import resident_bytes
from autoround.report.remaining import Remaining
from autoround.report.terminal import printable

#: Times a second that the region is drawn.
REFRESH = 4
#: Columns of the bar at most.
BAR = 40


class LiveView:
    """Draws a region below the lines that a console prints, while a context lasts.

    It goes by the clock of its own thread, so that a phase without events shows that it goes on.

    Args:
        console: a terminal that can redraw lines.
        remaining: knows the time that is left; is told of events by somebody else.
        clock: seconds that only ever grow.
    """

    def __init__(
        self,
        console: Console,
        remaining: Remaining,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console, self._remaining, self._clock = console, remaining, clock
        self._stage, self._since = "start", clock()
        self._done = self._total = 0
        self._work: list[str] = []
        self._device_peak = 0
        self._has_device = False
        self._live = Live(
            console=console,
            get_renderable=self.render,
            refresh_per_second=REFRESH,
            transient=True,
        )

    def __enter__(self) -> LiveView:
        self._live.start(refresh=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def __call__(self, event: Event) -> None:
        """Take note of an event; the region shows it when it is drawn next.

        Args:
            event: the next one of the run.
        """
        if isinstance(event, Planned):
            self._plan(event)
        elif isinstance(event, StageStarted):
            self._enter(event)
        elif isinstance(event, StepDone):
            self._stage, self._done = "tune", event.block
            self._work = [f"step {event.step}/{event.steps}", f"loss {event.loss:.3e}"]
        elif isinstance(event, BlockDone):
            self._done, self._total = event.result.index + 1, event.blocks
            self._device_peak, self._work = event.result.peak_bytes, []
            self._since = self._clock()
        elif isinstance(event, EndToEndStep):
            self._work = [f"step {event.step}/{event.steps}", f"KL {event.loss:.3e}"]
        elif isinstance(event, Scored):
            self._done, self._total = event.blocks - event.block, event.blocks
        elif isinstance(event, WindowScored):
            self._work = [f"window {event.window}/{event.windows}"]
        elif isinstance(event, Judged):
            self._work = []

    def _plan(self, event: Planned) -> None:
        self._done, self._total = 0, len(event.plan.blocks)
        self._has_device = event.estimate.device_bytes > 0

    def _enter(self, event: StageStarted) -> None:
        self._stage, self._since, self._work = event.stage, self._clock(), []
        if event.stage in ("score", "pass"):
            self._done = 0
        elif event.stage in ("write", "verify"):
            self._done = self._total

    def render(self) -> Group:
        """Return the region as it is now: the bar, and the work, each in one line."""
        width = self._console.width
        lines: list[Table | Text] = []
        if self._total and self._stage not in ("start", "fetch", "allocate"):
            lines.append(self._bar_line(width))
        lines.append(Text(fit_items(self._work_items(), width), no_wrap=True, overflow="crop"))
        return Group(*lines)

    def _bar_line(self, width: int) -> Table:
        blocks = f"{self._done}/{count_of(self._total, 'block')}"
        words = fit_items([blocks, self._time_left()], width - width // 4)
        bar = ProgressBar(
            total=self._total, completed=self._done, width=max(4, min(BAR, width - len(words) - 3))
        )
        row = Table.grid(padding=(0, 2, 0, 0))
        row.add_row(bar, Text(words, no_wrap=True))
        return row

    def _time_left(self) -> str:
        if self._stage == "score":
            return "then the run"
        left = self._remaining.seconds()
        if left is None:
            return "ETA after the first block"
        # While anything goes on it is not over: 0 s would look as if it were stuck.
        return f"ETA {format_duration(max(1.0, left))}"

    def _work_items(self) -> list[str]:
        """Return what is done now, the most important first."""
        elapsed = format_duration(max(0.0, self._clock() - self._since))
        names = {
            "start": "loading libraries, model and text",
            "end_to_end": "end-to-end",
            "outside": "layers outside the blocks",
        }
        if self._stage in ("tune", "pass", "resume"):
            items = [f"block {min(self._done + 1, self._total)}/{self._total}", *self._work]
        else:
            items = [names.get(self._stage, self._stage), *self._work]
        items = [*items, elapsed] if len(items) == 1 else items
        resident = resident_bytes()
        memory = [f"memory {resident / 1e9:.1f} GB"] if resident else []
        device = [f"device {self._device_peak / 1e9:.1f} GB"] * self._has_device
        return [printable(item) for item in (*items, *memory, *device)]


def fit_items(items: Sequence[str], width: int) -> str:
    """Join as many items as a line has columns for, the first ones; none is cut in two.

    Args:
        items: the most important first.
        width: columns; an item that is longer by itself is left to the terminal.
    """
    line = items[0]
    for item in items[1:]:
        # The last column stays empty: some terminals go on to the next line there.
        if len(line) + 2 + len(item) < width:
            line += f"  {item}"
    return line
