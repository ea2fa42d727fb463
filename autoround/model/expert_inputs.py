"""What the experts of a layer get: sums of squares of the inputs of every matrix, and token counts.

The matrices before the activation get the hidden states of the tokens that are routed to an expert,
the last one the gated product of the first two, which is computed here once more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn


class RoutedSums(Protocol):
    """Where sums of experts are added to."""

    def flat_mask(self, positions: int) -> Tensor | None:
        """Return which of the flattened positions count, bool [positions]; None when all do."""

    def count(self, module: str, tokens: Tensor) -> None:
        """Add how many tokens were routed to every expert, int64 [experts]."""

    def add_routed(self, name: str, squares: Tensor) -> None:
        """Add sums of squared inputs of every expert, float32 [experts, in]."""


class GatedExperts(NamedTuple):
    """The part of a layer's experts before their last matrix.

    weight: gate and up, [experts, in, out]. bias: [experts, out] or None. join: the gated product
    of their outputs, [rows, out] to [rows, inner].
    """

    weight: Tensor
    bias: Tensor | None
    join: Callable[[Tensor], Tensor]


def observe_experts(
    module: nn.Module,
    tensors: Sequence[Tensor],
    *,
    into: RoutedSums,
    path: str,
    count: int,
    weights: Sequence[str],
) -> None:
    """Add the importance of every expert's matrices, and count the tokens routed to it.

    Args:
        module: That holds the experts.
        tensors: Hidden states [tokens, in], and the experts of each token, int64 [tokens, top_k].
        into: The sums to add to.
        path: Of the module inside its block.
        count: Number of experts.
        weights: Names of the module's stacked weights.
    """
    hidden = tensors[0].detach().reshape(-1, tensors[0].shape[-1])
    chosen = next((t for t in tensors[1:] if not t.is_floating_point()), None)
    if chosen is None or chosen.dim() != 2 or len(chosen) != len(hidden):
        return
    mask = into.flat_mask(len(hidden))
    if mask is not None:
        mask = mask.to(hidden.device)
    # One column more than experts: some routers mark unused slots by that number.
    chosen = chosen.clamp(0, count)
    hit = torch.zeros((len(hidden), count + 1), device=hidden.device)
    hit.scatter_(1, chosen, 1.0)
    hit = hit[:, :count] if mask is None else hit[:, :count] * mask[:, None]
    into.count(path, hit.sum(0).long())
    squares = hit.t() @ hidden.float().square()
    gated = _gated_part(module)
    for name in weights:
        if "down" not in name and name != "w2":
            into.add_routed(f"{path}.{name}", squares)
        elif gated is not None and hidden.device.type == "cpu":
            into.add_routed(f"{path}.{name}", inner_squares(gated, hidden, hit))
        elif gated is not None:
            if mask is not None:
                chosen = chosen.masked_fill(~mask[:, None], count)
            into.add_routed(f"{path}.{name}", inner_squares_sorted(gated, hidden, chosen))


def _gated_part(module: nn.Module) -> GatedExperts | None:
    """Return the part before the last matrix; None where a module does not say how it is joined."""
    weight = getattr(module, "gate_up_proj", None)
    join: Any = getattr(module, "_apply_gate", None)
    if not isinstance(weight, Tensor) or join is None or not getattr(module, "has_gate", True):
        return None
    weight = weight if getattr(module, "is_transposed", False) else weight.transpose(1, 2)
    return GatedExperts(weight, getattr(module, "gate_up_proj_bias", None), join)


def inner_squares(gated: GatedExperts, hidden: Tensor, hit: Tensor) -> Tensor:
    """Sum the squares of the inputs of every expert's last matrix, one expert after the other.

    Args:
        gated: The part before it.
        hidden: [tokens, in].
        hit: float32 [tokens, experts], 1 where a token counts for an expert, else 0.

    Returns:
        float32 [experts, inner].
    """
    sums = []
    for expert, weight in enumerate(gated.weight):
        # Which tokens these are has to be known on the host: a device would be waited for.
        x = hidden[hit[:, expert] > 0].to(weight.dtype)
        y = x @ weight
        y = y if gated.bias is None else y + gated.bias[expert]
        sums.append(gated.join(y).float().square().sum(0))
    return torch.stack(sums)


def inner_squares_sorted(gated: GatedExperts, hidden: Tensor, chosen: Tensor) -> Tensor:
    """Sum the squares of the inputs of every expert's last matrix, all experts at once.

    Pairs of a token and an expert are sorted by expert, so that shapes do not depend on the
    routing and nothing is read by the host.

    Args:
        gated: The part before it.
        hidden: [tokens, in].
        chosen: int64 [tokens, top_k], experts of each token; the number of experts for none.

    Returns:
        float32 [experts, inner].
    """
    count = len(gated.weight)
    experts, order = torch.sort(chosen.reshape(-1), stable=True)
    numbers = torch.arange(count, device=hidden.device)
    member = experts[:, None] == numbers  # [pairs, experts]
    ends = member.sum(0).cumsum(0).to(torch.int32)
    x = hidden[order // chosen.shape[1]].to(gated.weight.dtype)
    try:
        y = _grouped_product(x, gated.weight, ends)
    except (RuntimeError, NotImplementedError, AttributeError):
        # Not for this device, dtype or width: every expert then multiplies every token.
        return _inner_squares_of_all(gated, hidden, chosen)
    if gated.bias is not None:
        y = y + gated.bias[experts.clamp(max=count - 1)]
    # Rows behind the last expert's are whatever was in memory, NaN included.
    inner = gated.join(y).float().masked_fill((experts == count)[:, None], 0.0)
    return member.t().float() @ inner.square()


def _grouped_product(rows: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
    """Multiply rows that are sorted by group with the matrix of their group.

    rows: [pairs, in]. weights: [groups, in, out]. ends: int32 [groups], where each group's end.
    """
    functional: Any = torch.nn.functional
    # Since torch 2.10 under a public name.
    product: Any = getattr(functional, "grouped_mm", None) or torch._grouped_mm
    result: Tensor = product(rows, weights, offs=ends)
    return result


def _inner_squares_of_all(gated: GatedExperts, hidden: Tensor, chosen: Tensor) -> Tensor:
    sums = []
    for expert, weight in enumerate(gated.weight):
        y = hidden.to(weight.dtype) @ weight
        y = y if gated.bias is None else y + gated.bias[expert]
        routed = (chosen == expert).any(1).float()
        sums.append(routed @ gated.join(y).float().square())
    return torch.stack(sums)
