"""What every block of a run shares: plan, model, device, tokens, and where things are kept."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from autoround.core.dtypes import DTYPES
from autoround.data.tokens import Tokens
from autoround.device.protocol import Runtime
from autoround.events import Sink
from autoround.model.runner import BlockRunner, call_block
from autoround.model.skeleton import Skeleton
from autoround.session.block_store import EVERY_BLOCK, BlockStore
from autoround.session.checkpoints import CheckpointPolicy, EveryBlock, RareCheckpoints
from autoround.session.task_queue import Immediately, TaskQueue
from autoround.settings import FRESH, TuningSettings
from autoround.types import Estimate, LayerPlan, Plan

#: Positions whose logits are held at once, so that a large vocabulary fits the cache better.
POSITION_CHUNK = 128


@dataclass(frozen=True, slots=True)
class Placement:
    """Where activations and finished blocks are, as the estimate says under the same names.

    streams_on_disk: activation streams live in mapped files. streams_on_device: they stay on the
    device. codes_on_disk: finished blocks are read from the store whenever end-to-end tuning needs
    one. graphs_held: end-to-end tuning holds the autograd graphs of all blocks of a step.
    """

    streams_on_disk: bool = False
    streams_on_device: bool = False
    codes_on_disk: bool = False
    graphs_held: bool = False

    @staticmethod
    def of(estimate: Estimate, *, stored: bool) -> Placement:
        """Take over what an estimate decided.

        Args:
            estimate: of the run.
            stored: whether finished blocks are kept on the disk; without, nothing lives there.
        """
        return Placement(
            streams_on_disk=stored and estimate.streams_on_disk,
            streams_on_device=estimate.streams_on_device,
            codes_on_disk=stored and estimate.codes_on_disk,
            graphs_held=estimate.graphs_held,
        )


@dataclass(frozen=True, slots=True)
class Session:
    """One pass over the blocks of a model, and all that its blocks have in common.

    plan: of this pass, its hyperparameters settled. tokens: of the calibration; None where the
    plan needs no data. fresh: those that end-to-end tuning alone reads; None where it reads the
    calibration's. store: where finished blocks are kept, if they are. checkpoints: when the
    activation streams are kept with them. tasks: does what is left to do on the disk.
    """

    plan: Plan
    skeleton: Skeleton
    runtime: Runtime
    tokens: Tokens | None
    sink: Sink
    store: BlockStore | None = None
    placement: Placement = Placement()
    checkpoints: CheckpointPolicy = EVERY_BLOCK
    tasks: TaskQueue = field(default_factory=Immediately)
    fresh: Tokens | None = None

    @property
    def tuning(self) -> TuningSettings:
        """The hyperparameters of the pass."""
        return self.plan.tuning

    @property
    def fresh_tokens(self) -> Tokens | None:
        """The samples that end-to-end tuning has to itself; a pass may do without that."""
        return self.fresh if self.tuning.end_to_end.nsamples else None

    @property
    def stream_names(self) -> tuple[str, ...]:
        """The activation streams that blocks hand on."""
        return (*self.tuning.streams, *[FRESH] * (self.fresh_tokens is not None))

    @property
    def compute_dtype(self) -> torch.dtype:
        """The dtype that blocks run in."""
        return DTYPES[self.plan.compute_dtype]

    @property
    def stream_device(self) -> torch.device:
        """Where the activation streams are."""
        on_device = self.placement.streams_on_device
        return self.runtime.device if on_device else torch.device("cpu")

    @property
    def finished_blocks(self) -> int:
        """How many blocks are finished and kept in the store."""
        return 0 if self.store is None else min(self.store.done, len(self.plan.blocks))

    @property
    def non_block_layers(self) -> list[LayerPlan]:
        """The layers outside the blocks that this pass quantizes."""
        names = frozenset(self.tuning.non_block_layers)
        return [layer for layer in self.plan.kept if layer.name in names]


def choose_checkpoints(session: Session) -> CheckpointPolicy:
    """Return when the activation streams of a pass are saved.

    Args:
        session: the pass. A block takes seconds on a device of its own, and saving them as long;
            blocks of a streamed model are not there to be run again.
    """
    if session.runtime.own_memory and session.skeleton.stream is None:
        return RareCheckpoints()
    return EveryBlock()


def make_runner(session: Session, *, compiled: bool = True) -> BlockRunner:
    """Return what runs the blocks of a model.

    Args:
        session: the pass.
        compiled: whether tuning steps may use a compiled call, where the plan has one.
    """
    device, dtype = session.runtime.device, session.compute_dtype
    if not (compiled and session.plan.compiled):
        return BlockRunner(
            session.skeleton, device=device, dtype=dtype, float32=session.plan.computed_in_float32
        )
    return BlockRunner(
        session.skeleton,
        device=device,
        dtype=dtype,
        compiled_call=session.runtime.compile(call_block),
        attention=session.tuning.attention or None,
        float32=session.plan.computed_in_float32,
    )
