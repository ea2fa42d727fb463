"""What the stages that work on blocks share: the job, and how blocks name their weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from autoround.data.tokens import Tokens
from autoround.device.protocol import Runtime
from autoround.events import Sink
from autoround.model.skeleton import Skeleton
from autoround.recipe.schema import Recipe
from autoround.stages.experts import as_kept
from autoround.stages.finished import BlockOutput, Carried
from autoround.stages.journal import PassJournal
from autoround.stages.plan import DTYPES
from autoround.types import BlockPlan, Plan

__all__ = ["BlockOutput", "Carried", "Job", "as_stored"]


@dataclass(frozen=True)
class Job:
    """What every block of a run shares.

    journal: where finished blocks are kept, if they are. mapped: whether streams live there.
    packed: whether finished blocks stay there, too, when all of them are needed. resident: whether
    streams stay on the device.
    allocation: what was predicted of the recipe's rules, where a budget of bits made them.
    """

    plan: Plan
    recipe: Recipe
    skeleton: Skeleton
    runtime: Runtime
    tokens: Tokens | None
    sink: Sink
    journal: PassJournal | None = None
    mapped: bool = False
    packed: bool = False
    allocation: Mapping[str, Any] | None = None
    resident: bool = False

    @property
    def stream_device(self) -> torch.device:
        """Where the streams of activations are."""
        return self.runtime.device if self.resident else torch.device("cpu")

    @property
    def compute(self) -> torch.dtype:
        """The dtype blocks run in."""
        return DTYPES[self.plan.compute_dtype]


def as_stored(block: BlockPlan, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name weights as the block does, and turn them the way it stores them."""
    layers = {layer.name: layer for layer in block.layers}
    return {
        layers[name].tensor.removeprefix(block.name + "."): as_kept(layers[name], weight)
        for name, weight in weights.items()
    }
