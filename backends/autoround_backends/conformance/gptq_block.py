"""A block of columns rounded by GPTQ, against the float64 oracle."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from autoround.core.gptq import ColumnBlock
from autoround.core.grids.levels import integer_levels
from autoround_backends import reference_gptq as oracle
from autoround_backends.conformance.subject import Case, Subject, require

#: Columns and rows: one of each, a program's worth, more and less, and more columns than any takes.
SIZES = ((1, 1), (1, 40), (7, 5), (64, 32), (64, 100), (50, 33), (130, 9))
#: How far from a tie, in levels, float32 rounds as float64 does after all columns before.
CERTAIN = 1e-3


class _Kind(NamedTuple):
    columns: int
    rows: int
    bits: int
    sym: bool


def gptq_block_cases() -> Iterator[Case]:
    """Yield the cases of this file."""
    for columns, rows in SIZES:
        for bits, sym in ((2, True), (4, False), (8, False)):
            kind = _Kind(columns, rows, bits, sym)
            about = f"{columns}x{rows}-{bits}bit-{'sym' if sym else 'asym'}"
            yield Case(f"a GPTQ block is the oracle's [{about}]", partial(_gptq_block, kind))


def _drawn(kind: _Kind) -> ColumnBlock:
    """Draw columns whose factor is a narrow part of a wider one, as it is in use."""
    rng = np.random.default_rng(kind.columns + kind.bits)
    shape = (kind.columns, kind.rows)
    levels = integer_levels(kind.bits, sym=kind.sym)
    weight = rng.normal(size=shape)
    signs = np.sign(rng.normal(size=shape)) if kind.sym else np.ones(shape)
    scale = signs * rng.uniform(0.5, 1.5, size=shape) * 4.0 / levels.count
    middle = np.full(shape, levels.middle)
    zero = middle if kind.sym else rng.integers(0, levels.count, size=shape)
    minimum = np.zeros(shape) if kind.sym else rng.uniform(-0.1, 0.1, size=shape)
    wide = np.triu(rng.normal(size=(kind.columns, kind.columns + 3)) * 0.1, k=3)
    wide += np.eye(kind.columns, kind.columns + 3, k=3) * rng.uniform(0.8, 1.2)
    upper = torch.from_numpy(wide).float()[:, 3:]
    first, *others = (torch.from_numpy(x).float() for x in (weight, scale, -zero, minimum))
    return ColumnBlock(first, others[0], others[1], others[2], upper, levels)


def _gptq_block(kind: _Kind, subject: Subject) -> None:
    runtime, drawn = subject.runtime, _drawn(kind)
    tensors = (drawn.weight, drawn.scale, drawn.low, drawn.minimum, drawn.upper)
    top = drawn.levels.count - 1
    wanted = oracle.gptq_block(*(part.double().numpy() for part in tensors), top=top)
    # The factor stays a part of a wider one: its rows are not one after the other.
    wide = torch.nn.functional.pad(drawn.upper, (0, 3)).to(runtime.device)
    on_device = ColumnBlock(
        drawn.weight.clone().to(runtime.device),
        drawn.scale.to(runtime.device),
        drawn.low.to(runtime.device),
        drawn.minimum.to(runtime.device),
        wide[:, : kind.columns],
        drawn.levels,
    )
    results = runtime.ops.gptq_block(on_device)
    certain = wanted.apart > CERTAIN * max(1, kind.columns // 8)
    require(kind.rows < 30 or certain.mean() > 0.1, "nothing is certain: draw others")
    for ours, theirs in zip(results, wanted[:2], strict=True):
        require(
            ours.dtype == torch.float32 and ours.shape == theirs.shape, "another kind of result"
        )
        gap = np.abs(ours.cpu().numpy() - theirs)[:, certain]
        size = np.abs(theirs)[:, certain] + 1.0
        require(bool((gap <= 2e-4 * size).all()), f"apart by {gap.max(initial=0.0):.2g}")
