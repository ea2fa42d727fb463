"""When activation streams are saved: after every block, or where that costs next to nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol, TypeAlias

#: Puts the streams on the disk, and returns their checksums by name.
Save: TypeAlias = Callable[[], dict[str, int]]
#: Times of a save that must have passed since the last: saving then takes a twentieth of a run.
RATIO = 20.0


class CheckpointPolicy(Protocol):
    """Decides after each block whether its streams are saved."""

    def save(self, save: Save) -> dict[str, int]:
        """Save the streams if a checkpoint is due.

        Args:
            save: puts them on the disk.

        Returns:
            Their checksums by name; empty where no checkpoint is due.
        """


class EveryBlock:
    """Saves after every block: for devices on which tuning one takes minutes."""

    def save(self, save: Save) -> dict[str, int]:
        """Save the streams.

        Args:
            save: puts them on the disk.

        Returns:
            Their checksums by name.
        """
        return save()


class AfterWaiting:
    """Saves when another policy does, once a wait is over.

    Args:
        policy: decides.
        wait: until the record of the checkpoint before is on the disk: its files are written over.
    """

    def __init__(self, policy: CheckpointPolicy, wait: Callable[[], None]) -> None:
        self._policy, self._wait = policy, wait

    def save(self, save: Save) -> dict[str, int]:
        """Save the streams if a checkpoint is due.

        Args:
            save: puts them on the disk.

        Returns:
            Their checksums by name; empty where no checkpoint is due.
        """

        def after_waiting() -> dict[str, int]:
            self._wait()
            return save()

        return self._policy.save(after_waiting)


class RareCheckpoints:
    """Saves when RATIO times the cost of the last save has passed since it; the first at once.

    Args:
        clock: seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._cost = 0.0
        self._ended = clock()

    def save(self, save: Save) -> dict[str, int]:
        """Save the streams if a checkpoint is due.

        Args:
            save: puts them on the disk.

        Returns:
            Their checksums by name; empty where no checkpoint is due.
        """
        began = self._clock()
        if began - self._ended < RATIO * self._cost:
            return {}
        sums = save()
        self._ended = self._clock()
        self._cost = self._ended - began
        return sums
