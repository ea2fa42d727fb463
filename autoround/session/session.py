"""What the stages that work on blocks share: the job, and how blocks name their weights."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from autoround.core.dtypes import DTYPES
from autoround.data.tokens import Tokens
from autoround.device.protocol import Runtime
from autoround.events import Sink
from autoround.formats.registry import is_gguf
from autoround.model.blocks import head_path
from autoround.model.importance import Importance, observing
from autoround.model.runner import BlockRunner, call_block
from autoround.model.skeleton import Skeleton
from autoround.model.stacked_experts import as_stored
from autoround.recipe.schema import Recipe
from autoround.session.block_output import BlockOutput, QuantizedWeight
from autoround.session.block_store import BlockStore
from autoround.types import BlockPlan, LayerPlan, Plan

__all__ = [
    "BlockOutput",
    "QuantizedWeight",
    "Session",
    "as_stored",
    "by_param",
    "forward_block",
    "make_runner",
    "observing_layers",
]


#: Tokens of a sample up to which plain products, compiled, are the fastest attention on a CPU:
#: torch's kernel has a slow backward there, which grows by the token, theirs by its square.
EAGER_ATTENTION_TOKENS = 128


@dataclass(frozen=True)
class Session:
    """What every block of a run shares.

    journal: where finished blocks are kept, if they are. mapped: whether streams live there.
    packed: whether finished blocks stay there, too, when all of them are needed. resident: whether
    streams stay on the device. graphs: whether those of all blocks are held in a step over the
    whole model.
    allocation: what was predicted of the recipe's rules, where a budget of bits made them.
    """

    plan: Plan
    recipe: Recipe
    skeleton: Skeleton
    runtime: Runtime
    tokens: Tokens | None
    sink: Sink
    journal: BlockStore | None = None
    mapped: bool = False
    packed: bool = False
    allocation: Mapping[str, Any] | None = None
    resident: bool = False
    graphs: bool = False

    @property
    def stream_device(self) -> torch.device:
        """Where the streams of activations are."""
        return self.runtime.device if self.resident else torch.device("cpu")

    @property
    def compute(self) -> torch.dtype:
        """The dtype blocks run in."""
        return DTYPES[self.plan.compute_dtype]


def make_runner(job: Session) -> BlockRunner:
    """Return what runs the blocks of a job, compiled where its plan says so."""
    place, dtype = job.runtime.device, job.compute
    if not job.plan.compiled:
        return BlockRunner(job.skeleton, device=place, dtype=dtype)
    often = job.runtime.compile(call_block)
    short = job.recipe.calibration.seqlen <= EAGER_ATTENTION_TOKENS and not job.runtime.own_memory
    attention = "eager" if short else None
    return BlockRunner(job.skeleton, device=place, dtype=dtype, often=often, attention=attention)


def by_param(block: BlockPlan, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name a block's tensors as they are called inside it."""
    return {name.removeprefix(block.name + "."): tensor for name, tensor in tensors.items()}


def forward_block(
    runner: BlockRunner,
    block: BlockPlan,
    base: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    *,
    hidden: Tensor,
    rows: Tensor | None,
    often: bool = False,
) -> Tensor:
    """Run a block with some of its weights given by layer name, [out, in].

    base: its other tensors, by their names inside it. rows: which samples these are.
    often: whether this is one of many runs that are alike.
    """
    stored = {**base, **as_stored(block, weights)}
    return runner.run(block.index, stored, hidden=hidden, rows=rows, often=often)


def observing_layers(
    job: Session, block: BlockPlan, *, into: Importance, linear: bool = True
) -> AbstractContextManager[None]:
    """Record the inputs of a block's quantized layers while the context lasts.

    linear: whether those of linear layers are wanted; tokens of experts are always counted.
    """
    paths = {layer.name.removeprefix(block.name + "."): layer for layer in block.quantized}
    names = [path for path, layer in paths.items() if not layer.experts]
    stacked = {path: layer.experts for path, layer in paths.items() if layer.experts}
    module = job.skeleton.model.get_submodule(block.name)
    return observing(module, names if linear else (), into=into, stacked=stacked)


def with_kept_dtypes(
    job: Session, block: BlockPlan, stored: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Give kept tensors the dtype they will be written in, so tuning sees what is served."""
    replaced = {layer.tensor for layer in block.quantized}
    kept = DTYPES[job.plan.dtype]
    return {
        name: t.to(kept) if name not in replaced and t.is_floating_point() else t
        for name, t in stored.items()
    }


def planned_outside(job: Session) -> list[LayerPlan]:
    """Return the layers outside the blocks that are quantized here; GGUF rounds its own."""
    if all(map(is_gguf, job.plan.outputs)):
        return []
    return [layer for layer in job.plan.kept if layer.scheme is not None]


def tunes_head(job: Session) -> bool:
    """Tell whether the head is among them, so that both streams are needed to the end."""
    head = head_path(job.skeleton.model)
    return any(layer.name == head for layer in planned_outside(job))


#: Positions whose logits are held at once, so that a large vocabulary fits the cache better.
POSITION_CHUNK = 128
