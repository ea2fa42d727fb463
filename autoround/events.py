"""Typed events of a run; a sink is any callable that takes one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from autoround.types import BlockResult, Estimate, Plan


@dataclass(frozen=True, slots=True)
class Planned:
    """The plan and its cost are known; nothing has been done yet."""

    plan: Plan
    estimate: Estimate


@dataclass(frozen=True, slots=True)
class StageStarted:
    """A named stage begins: calibrate, tune, write, evaluate."""

    stage: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class StepDone:
    """One tuning step of a block is done; ``loss`` is of that step's own batch."""

    block: int
    step: int
    steps: int
    loss: float


@dataclass(frozen=True, slots=True)
class BlockDone:
    """A block is quantized and its tensors are handed to the writer."""

    result: BlockResult
    blocks: int


@dataclass(frozen=True, slots=True)
class EndToEndStep:
    """One step of the descent over the whole model is done; ``loss`` is of its own batch.

    before: the loss of before the descent, with the one of after it, on samples it did not
    see; None but at the end.
    """

    step: int
    steps: int
    loss: float
    before: float | None = None


@dataclass(frozen=True, slots=True)
class Scored:
    """The layers of a block are judged in each of their options; blocks come last to first."""

    block: int
    blocks: int


@dataclass(frozen=True, slots=True)
class Warned:
    """Something the user should know and that did not stop the run."""

    message: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The output folder is complete."""

    output_dir: str
    seconds: float
    disk_bytes: int


Event: TypeAlias = (
    Planned | StageStarted | StepDone | BlockDone | EndToEndStep | Scored | Warned | Finished
)
Sink: TypeAlias = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Drop an event: the sink of a caller who wants silence."""
