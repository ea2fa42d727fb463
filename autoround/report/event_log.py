"""Events of a run as lines of JSON, each in the file when it happens: docs/events.md."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from autoround._version import __version__
from autoround.errors import OutputError
from autoround.events import BlockDone, EndToEndStep, Event, Planned, Sink, StepDone, Warned, ignore
from autoround.storage.files import WritableFile
from autoround.storage.json_text import to_json

#: Version of what lines hold; fields may be added to one.
SCHEMA = 1
#: Seconds between two lines about steps; the last step of a block always has one.
STEP_PAUSE = 0.25

_WORD = re.compile(r"(?<!^)(?=[A-Z])")


class EventLog:
    """A sink that writes each event as a line of JSON, behind those that are there.

    Nothing waits in a buffer: what was told is in the file, whatever ends the process.

    Args:
        path: of the file, which is made where it is not there.
        warn: is told once, where the disk takes no more lines; the run goes on without them.
        clock: seconds since 1970.

    Raises:
        OutputError: the file cannot be opened.
    """

    def __init__(
        self, path: Path, *, warn: Sink = ignore, clock: Callable[[], float] = time.time
    ) -> None:
        self._path, self._warn, self._clock = path, warn, clock
        self._step_written = 0.0
        try:
            self._file: WritableFile | None = WritableFile(path, append=True)
            self._end_line(path)
            self._write("log_started", {"schema": SCHEMA, "autoround": __version__})
        except OSError as error:
            raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error

    def __enter__(self) -> EventLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None

    def __call__(self, event: Event) -> None:
        """Write an event; of steps, a few a second.

        Args:
            event: the next one of the run.
        """
        if self._file is None or not self._is_due(event):
            return
        try:
            self._write(event_name(event), event_values(event))
        except OSError as error:
            self._file.close()
            self._file = None
            self._warn(Warned(f"{self._path} takes no more events: {error.strerror or error}"))

    def _is_due(self, event: Event) -> bool:
        if isinstance(event, EndToEndStep) and event.initial_loss is not None:
            return True
        if not isinstance(event, StepDone | EndToEndStep):
            return True
        now = self._clock()
        # A clock that was set back must not silence the log.
        if 0 <= now - self._step_written < STEP_PAUSE and event.step < event.steps:
            return False
        self._step_written = now
        return True

    def _write(self, name: str, values: dict[str, Any]) -> None:
        line = to_json({"time": round(self._clock(), 3), "event": name, **values}) + "\n"
        assert self._file is not None
        # In one call: a process that is killed leaves whole lines.
        self._file.write(line.encode())

    def _end_line(self, path: Path) -> None:
        """End a line that a power cut has left half written."""
        size = path.stat().st_size
        assert self._file is not None
        if size and self._file.read_at(1, size - 1) != b"\n":
            self._file.write(b"\n")


def event_name(event: Event) -> str:
    """Return the name of an event in the log: ``block_done`` of BlockDone.

    Args:
        event: of any kind.
    """
    return _WORD.sub("_", type(event).__name__).lower()


def event_values(event: Event) -> dict[str, Any]:
    """Return the fields of an event as values of JSON.

    Args:
        event: of any kind; of a plan what a reader of the log needs, as plan.json has the rest.
    """
    if isinstance(event, BlockDone):
        return {"blocks": event.blocks, **dataclasses.asdict(event.result)}
    if not isinstance(event, Planned):
        return dataclasses.asdict(event)
    plan = event.plan
    return {
        "model": plan.model,
        "architecture": plan.architecture,
        "blocks": len(plan.blocks),
        "passes": len(plan.passes),
        "iters": plan.tuning.iters,
        "device": plan.device,
        "formats": [output.format for output in plan.all_outputs],
        "estimate": dataclasses.asdict(event.estimate),
    }
