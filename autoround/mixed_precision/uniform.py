"""What one option for all layers would cost: what an allocation is compared with."""

from __future__ import annotations

from typing import NamedTuple

from autoround.mixed_precision.search import ChosenAllocation


class UniformAllocation(NamedTuple):
    """One option for all layers: its name, bits per weight, and predicted KL in nats per token."""

    name: str
    bits: float
    loss: float


def uniform_allocations(chosen: ChosenAllocation) -> list[UniformAllocation]:
    """Return what one option for all layers would cost, for options that all can take.

    Args:
        chosen: an allocation, whose layers, options and losses are compared.
    """
    # Formats refuse some options for some shapes; those cannot be had for all.
    shared = [o for o in chosen.groups[0].options if all(o in g.options for g in chosen.groups)]
    uniform = []
    for option in shared:
        picks = [group.options.index(option) for group in chosen.groups]
        size = sum(g.sizes[pick] for g, pick in zip(chosen.groups, picks, strict=True))
        loss = sum(losses[pick] for losses, pick in zip(chosen.losses, picks, strict=True))
        bits = 8 * size / chosen.weights
        uniform.append(UniformAllocation(str(option or "16 bit"), bits, loss))
    return uniform
