"""Floating-point operations of a method, by one formula for every program.

Counted are matrix products only, a multiplication and an addition being two operations. With P
weights in a block's matrices, A the width of its queries, and n samples of s tokens:

    forward(n)  = blocks × (2·P·n·s + 4·A·n·s²)
    steps       = 3 × steps × forward(batch)       forward, gradient of inputs, of weights
    passes      = passes × forward(nsamples)       chains of activations
    fresh       = forward(fresh)                   samples of the whole model's steps alone
    checks      = forward(samples scored to choose an iterate)
    whole model = steps × (4 × forward(batch) + 6·V·H·batch·s)
    Hessians    = blocks × Σ 2·in²·nsamples·s

The whole model's step runs forward, forward again block by block, and backward twice as dear as
forward; its head (V × H) runs for the teacher, the student and the gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from geometry import Geometry


@dataclass(frozen=True)
class Samples:
    """What one row computes on: blocks quantized, calibration samples, tokens of each."""

    blocks: int
    nsamples: int
    seqlen: int


def forward(shape: Geometry, samples: Samples, count: float) -> float:
    """Return the operations of running ``count`` samples through the quantized blocks."""
    tokens = count * samples.seqlen
    block = 2 * shape.block_weights * tokens + 4 * shape.attention * tokens * samples.seqlen
    return samples.blocks * block


def operations(shape: Geometry, samples: Samples, effort: dict[str, Any]) -> dict[str, float]:
    """Return the operations of a row in parts, and their total.

    effort: as a worker reports it: steps and batch of a block's tuning, passes over all
    samples, samples checked, distill_steps and distill_batch, fresh, hessian; 0 where absent.
    """
    batch = effort.get("distill_batch", 0)
    whole = Samples(shape.blocks, samples.nsamples, samples.seqlen)
    head = 6 * shape.vocabulary * shape.hidden * batch * samples.seqlen
    tokens = samples.nsamples * samples.seqlen
    parts = {
        "steps": 3 * effort.get("steps", 0) * forward(shape, samples, effort.get("batch", 0)),
        "passes": forward(shape, samples, effort.get("passes", 0) * samples.nsamples),
        "fresh": forward(shape, samples, effort.get("fresh", 0)),
        "checks": forward(shape, samples, effort.get("checked", 0)),
        "whole": effort.get("distill_steps", 0) * (4 * forward(shape, whole, batch) + head),
        "hessian": samples.blocks * sum(2 * inner**2 * tokens for _, inner in shape.matrices)
        if effort.get("hessian")
        else 0.0,
    }
    return {**parts, "total": sum(parts.values())}
