"""Weights of a block as plain numbers, where the block was tuned."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from autoround.core.grids.grid import from_groups
from autoround.core.rtn import Target
from autoround.formats.gguf.tensors import dense
from autoround.model.stacked_experts import as_matrix
from autoround.session.block_output import QuantizedWeight, weight_on
from autoround.session.session import Session
from autoround.types import BlockPlan


def dequantize(
    session: Session, weights: Mapping[str, QuantizedWeight], dtype: torch.dtype
) -> dict[str, Tensor]:
    """Dequantize weights on the device; what has its codes on the host is brought there first.

    Args:
        session: the pass.
        weights: by layer, on any device.
        dtype: of the result.

    Returns:
        [out, in] by layer.
    """
    device = session.runtime.device
    return {name: dense(weight_on(weight, device)).to(dtype) for name, weight in weights.items()}


def original_matrices(
    session: Session, block: BlockPlan, host: Mapping[str, Tensor], targets: Mapping[str, Target]
) -> dict[str, Tensor]:
    """Return the original weights of a tuned block from where they are by now.

    Args:
        session: the pass.
        block: which one.
        host: its tensors on the CPU, by the model's own names.
        targets: its grouped weights, which a device still holds.

    Returns:
        [out, in] by layer.
    """
    if session.runtime.own_memory:
        return {n: from_groups(target.groups, target.shape) for n, target in targets.items()}
    return {layer.name: as_matrix(layer, host[layer.tensor]) for layer in block.quantized}
