"""``run.json`` beside a quantized model: what its run measured, and what was expected of it.

Unlike ``plan.json`` it holds times, and is another file in every run of one plan.
"""

from __future__ import annotations

import dataclasses
import platform
import time
from collections.abc import Callable
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

from autoround._version import __version__
from autoround.events import Event, Sink, StageStarted, Warned
from autoround.types import Estimate, OutputPlan

#: Name of the file.
RUN_FILE = "run.json"
#: Phase that a run begins with, before its first stage.
FIRST_PHASE = "prepare"
#: Packages whose versions a report names.
PACKAGES = ("torch", "transformers", "safetensors", "numpy")
#: Stages that are part of another phase, or of none.
_PHASES = {"pass": "tune", "allocate": FIRST_PHASE, "resume": FIRST_PHASE}


class Phase(NamedTuple):
    """A part of a run: its name, its seconds, and the most memory in use up to its end."""

    name: str
    seconds: float
    peak_bytes: int


class RunRecorder:
    """A sink that notes when stages begin, and hands every event on.

    Args:
        sink: takes the events after it.
        peak_bytes: returns the most memory in use so far, in bytes.
        clock: seconds that only ever grow.
    """

    def __init__(
        self,
        sink: Sink,
        *,
        peak_bytes: Callable[[], int],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._sink, self._peak_bytes, self._clock = sink, peak_bytes, clock
        self._name, self._started = FIRST_PHASE, clock()
        self._phases: dict[str, Phase] = {}
        self.warnings: list[str] = []
        self.resumed = False

    def __call__(self, event: Event) -> None:
        """Note an event, and hand it on.

        Args:
            event: the next one of the run.
        """
        if isinstance(event, StageStarted):
            self._close()
            self._name = _PHASES.get(event.stage, event.stage)
            self.resumed = self.resumed or event.stage == "resume"
        elif isinstance(event, Warned):
            self.warnings.append(event.message)
        self._sink(event)

    def _close(self) -> None:
        now = self._clock()
        earlier = self._phases.get(self._name)
        seconds = max(0.0, now - self._started) + (earlier.seconds if earlier else 0.0)
        self._phases[self._name] = Phase(self._name, seconds, self._peak_bytes())
        self._started = now

    def phases(self) -> list[Phase]:
        """Return the phases up to now, in the order in which they began."""
        self._close()
        return list(self._phases.values())


class OutputFigures(NamedTuple):
    """What is known of one format of a run before it is written.

    method: in words. predicted_bytes: of its tensors. bits_per_weight: on the disk, of the quantized layers of the
    blocks. in_memory: whether the model was given from Python. own_data: whether the data was.
    """

    output: OutputPlan
    method: str
    predicted_bytes: int
    bits_per_weight: float
    in_memory: bool
    own_data: bool


def run_values(
    recorder: RunRecorder,
    estimate: Estimate,
    figures: OutputFigures,
    *,
    formats: int,
    now: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
) -> dict[str, Any]:
    """Return what a run measured as plain values for JSON.

    Args:
        recorder: of the run, up to the end of its checks.
        estimate: what the whole run was expected to cost.
        figures: of the format that is written.
        formats: how many the run writes, for all of which the estimate is.
        now: returns the time of day.
    """
    phases = recorder.phases()
    return {
        "finished": now().isoformat(timespec="seconds"),
        "output": dataclasses.asdict(figures.output),
        "formats": formats,
        "method": figures.method,
        "resumed": recorder.resumed,
        "in_memory": figures.in_memory,
        "own_data": figures.own_data,
        "seconds": sum(phase.seconds for phase in phases),
        "peak_bytes": max(phase.peak_bytes for phase in phases),
        "bits_per_weight": figures.bits_per_weight,
        "predicted_bytes": figures.predicted_bytes,
        "phases": [phase._asdict() for phase in phases],
        "estimate": dataclasses.asdict(estimate),
        "warnings": list(recorder.warnings),
        "versions": versions(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def versions() -> dict[str, str]:
    """Return the versions of this program, of Python, and of the packages that matter."""
    installed = {"autoround": __version__, "Python": platform.python_version()}
    for name in PACKAGES:
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            continue
    return installed
