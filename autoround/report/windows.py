"""How far scoring has come: a live line on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console
from rich.control import Control
from rich.segment import ControlType

from autoround.report.duration import format_duration

#: Seconds between lines where none can be redrawn.
PAUSE = 15.0


class WindowProgress:
    """Is told of each window that is scored, and prints how many are and what is left.

    Args:
        console: what to print on; a live line needs a terminal that can redraw one.
        clock: seconds that only ever grow.
        unit: what is counted; ``answer`` for those to the questions of tasks.
    """

    def __init__(
        self,
        console: Console,
        *,
        clock: Callable[[], float] = time.monotonic,
        unit: str = "window",
    ) -> None:
        self._console, self._clock, self._unit = console, clock, unit
        self._started = self._shown = clock()
        self._done = 0

    def __call__(self, done: int, total: int) -> None:
        """Print how far it is.

        Args:
            done: windows that are scored; 0 when the first model is loaded.
            total: windows of the text, of all models together; 0 where that is not known yet.
        """
        now = self._clock()
        live = self._console.is_terminal and not self._console.is_dumb_terminal
        if done == 0:
            self._started = self._shown = now
            self._done = 0
            plural = "s" * (total != 1)
            what = f"; {total} {self._unit}{plural} of text to score" if total else ""
            self._console.print(f"eval: model loaded{what}")
            return
        if done < self._done:  # the next task
            self._started = now
        self._done = done
        if live:
            self._clear()
        elif now - self._shown < PAUSE or done == total:
            return
        self._shown = now
        if done < total:
            left = (now - self._started) / done * (total - done)
            text = f"eval: {self._unit} {done}/{total}  ETA {format_duration(left)}"
            self._console.print(text, end="" if live else "\n", soft_wrap=True)

    def _clear(self) -> None:
        # As a control: rich takes carriage returns out of texts.
        self._console.control(Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 0)))
