"""``run.json`` beside a quantized model: what its run measured, and what was expected of it.

Unlike ``plan.json`` it holds times, and is another file in every run of one plan.
"""

from __future__ import annotations

import dataclasses
import platform
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from autoround._version import __version__
from autoround.errors import one_line
from autoround.events import Event, Sink, StageStarted, Warned
from autoround.export.writer import OutputWriter
from autoround.planning.estimate import output_bytes, quantized_bits
from autoround.planning.method import describe_method
from autoround.planning.serving.findings import output_findings
from autoround.session.session import Session
from autoround.storage.durable import write_text
from autoround.storage.json_text import to_json
from autoround.types import Estimate, Plan

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


class RunFacts(NamedTuple):
    """What the file of a run says besides what was measured.

    estimate: of the whole run. formats: how many it writes. in_memory: whether the model was given
    from Python. own_data: whether the data was. describe: writes into a complete folder what
    describes it to people; None for nothing.
    """

    estimate: Estimate
    formats: int
    in_memory: bool
    own_data: bool
    describe: Callable[[Path], object] | None = None


def write_run_files(
    writers: Sequence[OutputWriter], session: Session, facts: RunFacts, recorder: RunRecorder
) -> None:
    """Write what a run measured into each complete folder, and what describes it to people.

    The models are complete and checked by now: nothing that goes wrong here may take them along.

    Args:
        writers: of the formats, complete and not yet published.
        session: the pass that they wrote.
        facts: of the run.
        recorder: of the run, up to the end of its checks.
    """
    for writer, part in zip(writers, session.plan.outputs, strict=True):
        try:
            plan = dataclasses.replace(session.plan, outputs=(part,))
            size = output_bytes(plan, part, session.skeleton)
            values = run_values(recorder, facts, plan, predicted_bytes=size)
            values["serving"] = [dataclasses.asdict(x) for x in output_findings(plan, part)]
            write_text(writer.staging / RUN_FILE, to_json(values, indent=1) + "\n")
            if facts.describe is not None:
                facts.describe(writer.staging)
        except Exception as error:  # whatever it is: hours of work are not lost for a page
            session.sink(
                Warned(
                    f"no report of {part.format}: {one_line(error)}; the model itself is whole, "
                    "and 'autoround report' tries again"
                )
            )


def run_values(
    recorder: RunRecorder,
    facts: RunFacts,
    plan: Plan,
    *,
    predicted_bytes: int,
    now: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
) -> dict[str, Any]:
    """Return what a run measured as plain values for JSON.

    Args:
        recorder: of the run, up to the end of its checks.
        facts: of the run.
        plan: of the pass, with the one format that is written.
        predicted_bytes: of the format's tensors.
        now: returns the time of day.
    """
    phases = recorder.phases()
    return {
        "finished": now().isoformat(timespec="seconds"),
        "output": dataclasses.asdict(plan.outputs[0]),
        "formats": facts.formats,
        "method": describe_method(plan),
        "resumed": recorder.resumed,
        "in_memory": facts.in_memory,
        "own_data": facts.own_data,
        "seconds": sum(phase.seconds for phase in phases),
        "peak_bytes": max(phase.peak_bytes for phase in phases),
        "bits_per_weight": quantized_bits(plan),
        "predicted_bytes": predicted_bytes,
        "phases": [phase._asdict() for phase in phases],
        "estimate": dataclasses.asdict(facts.estimate),
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
