"""Signals that ask a process to end: a command ends as with Ctrl-C, and cleans up."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

#: By name: not every system has each.
ENDING = ("SIGTERM", "SIGHUP")


class AskedToEndError(KeyboardInterrupt):
    """A signal asks the process to end.

    number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def ending_signals() -> Iterator[list[int]]:
    """Let SIGTERM and SIGHUP interrupt what is run inside; a second one ends the process at once.

    Those that somebody handles or ignores already, as nohup ignores SIGHUP, are left alone.

    Yields:
        The signals that came, which grows.
    """
    came: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        came.append(number)
        signal.signal(number, signal.SIG_DFL)
        raise AskedToEndError(number)

    numbers = [getattr(signal, name) for name in ENDING if hasattr(signal, name)]
    # Handlers belong to the main thread.
    if threading.current_thread() is not threading.main_thread():
        numbers = []
    taken = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, end)
    try:
        yield came
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)
