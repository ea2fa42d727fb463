"""What the stages that work on blocks share: the job, and a finished block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from autoround.data.tokens import Tokens
from autoround.device.protocol import Runtime
from autoround.events import Sink
from autoround.formats.gguf_layout import GgufTensor
from autoround.model.skeleton import Skeleton
from autoround.recipe.schema import Recipe
from autoround.stages.experts import as_kept
from autoround.stages.plan import DTYPES
from autoround.types import BlockPlan, BlockResult, Plan, QuantizedTensor

#: A quantized weight, whatever holds its scales.
Carried: TypeAlias = QuantizedTensor | GgufTensor


@dataclass(frozen=True)
class BlockOutput:
    """One finished block: quantized layers by name, kept tensors by name, and figures."""

    layers: dict[str, Carried]
    kept: dict[str, Tensor]
    result: BlockResult


@dataclass(frozen=True)
class Job:
    """What every block of a run shares."""

    plan: Plan
    recipe: Recipe
    skeleton: Skeleton
    runtime: Runtime
    tokens: Tokens | None
    sink: Sink

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
