"""Typed events of a run; a sink is any callable that takes one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from autoround.types import BlockResult, Estimate, EvalResult, Plan


@dataclass(frozen=True, slots=True)
class Planned:
    """The plan and its cost are known; nothing has been done yet."""

    plan: Plan
    estimate: Estimate


@dataclass(frozen=True, slots=True)
class StageStarted:
    """A named stage of the run begins, such as tune or write."""

    stage: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class StepDone:
    """One tuning step of a block is done; ``loss`` is the reconstruction error of its batch."""

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
    """One step of end-to-end tuning is done; losses are KL divergences in nats per token.

    Attributes:
        step: counted from 1, up to ``steps``; less in the last event where the stage ended early.
        steps: of the whole of end-to-end tuning.
        loss: of the step's own batch; in the last event, on held-out samples after tuning.
        initial_loss: on held-out samples before tuning; set in the last event only.
    """

    step: int
    steps: int
    loss: float
    initial_loss: float | None = None


@dataclass(frozen=True, slots=True)
class Scored:
    """The layers of a block are scored in each of their options; blocks come last to first."""

    block: int
    blocks: int


@dataclass(frozen=True, slots=True)
class WindowScored:
    """A window of the evaluation text is run, by the original or by a result; windows is of all."""

    window: int
    windows: int


@dataclass(frozen=True, slots=True)
class Judged:
    """A written result is held to its gate.

    Attributes:
        folder: that was loaded: the output, or the part of it that holds one format.
        gate: the bounds.
        figures: what was measured; None where the model put out NaN or infinity.
        failures: why it does not pass, a sentence each; empty where it does.
    """

    folder: str
    gate: str
    figures: EvalResult | None
    failures: tuple[str, ...] = ()


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
    Planned
    | StageStarted
    | StepDone
    | BlockDone
    | EndToEndStep
    | Scored
    | WindowScored
    | Judged
    | Warned
    | Finished
)
Sink: TypeAlias = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Drop an event: the sink of a caller who wants silence."""
