"""Work on the disk behind the tuning: in its order, in a thread of its own where that helps.

What is handed over touches files and the host's memory alone: a device, and the modules that blocks
are run with, belong to the thread that tunes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Queue
from types import TracebackType
from typing import NamedTuple, Protocol, TypeAlias

#: Work that takes no arguments.
Task: TypeAlias = Callable[[], None]
#: Tasks that may wait: the record and the files of two blocks.
WAITING = 4


class TaskQueue(Protocol):
    """Does tasks one after the other, in the order they are handed over in."""

    def put(self, task: Task, *, lasting: bool = False) -> None:
        """Hand a task over.

        Args:
            task: what to do.
            lasting: whether it is done even if the run ends early.

        Raises:
            BaseException: what an earlier task raised, or with no thread this one.
        """

    def drain(self) -> None:
        """Wait until all tasks are done.

        Raises:
            BaseException: what one of them raised.
        """


class Immediately:
    """Does each task when it is handed over: where the device is the host."""

    def put(self, task: Task, *, lasting: bool = False) -> None:
        """Do a task."""
        task()

    def drain(self) -> None:
        """Do nothing: all is done."""


class _Entry(NamedTuple):
    """A task that waits; None for the end."""

    task: Task | None
    lasting: bool


class Behind:
    """Does tasks in a thread while a context lasts; after one that failed none is done.

    When the context ends with an error, tasks that are not lasting are dropped, those that are
    are done, and the thread has ended before the error goes on.

    Args:
        waiting: how many tasks may wait before handing one over waits, too.
    """

    def __init__(self, waiting: int = WAITING) -> None:
        self._queue: Queue[_Entry] = Queue(waiting)
        self._error: BaseException | None = None
        self._only_lasting = self._nothing = False
        self._thread = threading.Thread(target=self._work, name="autoround-writer", daemon=True)

    def __enter__(self) -> Behind:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the thread; raise what a task raised, unless an error goes on already."""
        self._only_lasting = error is not None
        try:
            self._queue.put(_Entry(None, lasting=True))
            self._thread.join()
        except BaseException:
            # Interrupted again: what it does now is the last thing.
            self._nothing = True
            self._queue.put(_Entry(None, lasting=True))
            self._thread.join()
            raise
        if error is None:
            self._raise()

    def put(self, task: Task, *, lasting: bool = False) -> None:
        """Hand a task over; waits while too many do.

        Raises:
            BaseException: what an earlier task raised.
        """
        self._raise()
        self._queue.put(_Entry(task, lasting))

    def drain(self) -> None:
        """Wait until all tasks are done.

        Raises:
            BaseException: what one of them raised.
        """
        self._queue.join()
        self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while True:
            task, lasting = self._queue.get()
            try:
                if task is None:
                    return
                if (
                    self._error is None
                    and not self._nothing
                    and (lasting or not self._only_lasting)
                ):
                    task()
            # Kept for the thread that tunes, whatever it is: it ends the run.
            except BaseException as error:
                self._error = error
            finally:
                self._queue.task_done()
