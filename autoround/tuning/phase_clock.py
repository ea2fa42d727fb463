"""How long the phases of a block take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class PhaseClock:
    """Adds up the seconds of each phase of the blocks that are tuned.

    Args:
        synchronize: waits for the work that a device has queued; None not to wait, as in a run,
            whose phases overlap there.
        clock: seconds that only ever grow.
    """

    def __init__(
        self,
        synchronize: Callable[[], None] | None = None,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.seconds: dict[str, float] = {}
        self._synchronize = synchronize
        self.clock = clock

    @contextmanager
    def measure(self, phase: str) -> Iterator[None]:
        """Time a phase; one that fails is not counted.

        Args:
            phase: its name; seconds of the same name add up.
        """
        self._wait()
        started = self.clock()
        yield
        self._wait()
        spent = max(0.0, self.clock() - started)
        self.seconds[phase] = self.seconds.get(phase, 0.0) + spent

    def _wait(self) -> None:
        if self._synchronize is not None:
            self._synchronize()
