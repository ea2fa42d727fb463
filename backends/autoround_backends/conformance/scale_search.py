"""The search for scales, against the float64 oracle's of the same candidates."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from autoround.core.grids.gguf_types import GGUF_TYPES
from autoround.core.grids.grid import quant_params, to_groups
from autoround.core.grids.levels import integer_levels
from autoround.core.grids.scales import HALF, Half, Nested
from autoround.types import PER_CHANNEL
from autoround_backends import reference
from autoround_backends import reference_scales as oracle
from autoround_backends.conformance.subject import Case, Subject, require

#: Share of the groups whose scale and zero point must be the oracle's: elsewhere two candidates
#: are as good as each other, or a scale lies between two that float16 holds. The scale of a
#: super-block moves all of its groups.
EQUAL, EQUAL_NESTED = 0.95, 0.7
#: By how much more error than the oracle's groups may have on average, relative to that.
CLOSE = 5e-3


class _Kind(NamedTuple):
    """A weight [rows, columns]; stacked: importances, each for rows / stacked rows, or 0."""

    shape: tuple[int, int]
    group_size: int
    bits: int
    sym: bool
    stacked: int
    lowest: int = 0
    scales: Half | Nested = HALF

    def __str__(self) -> str:
        kind = "sym" if self.sym else f"asym{self.lowest or ''}"
        about = f"{self.shape[0]}x{self.shape[1]}-g{self.group_size}-{self.bits}bit-{kind}"
        return f"{about}-{self.stacked} importances"


#: One of each bits and symmetry; groups that are padded, odd and as long as a row.
KINDS = (
    *(_Kind((12, 96), 32, bits, sym, 1) for bits in (2, 3, 4, 8) for sym in (True, False)),
    *(_Kind((12, 96), 32, bits, False, 3, 1) for bits in (2, 4)),
    *(_Kind((9, 70), 32, 4, sym, 0) for sym in (True, False)),
    _Kind((6, 35), 7, 5, True, 6),
    _Kind((6, 200), PER_CHANNEL, 6, False, 2),
    _Kind((4, 2100), PER_CHANNEL, 4, True, 1),
)
NESTED = ("q2_k", "q3_k", "q4_k", "q6_k")


def scale_search_cases() -> Iterator[Case]:
    """Yield the cases of this file."""
    for kind in KINDS:
        yield Case(f"a search finds the oracle's ranges [{kind}]", partial(_search, kind))
    for name in NESTED:
        block_type = GGUF_TYPES[name]
        assert block_type.nested is not None
        for stacked in (0, 3):
            scheme = (block_type.group_size, block_type.bits, block_type.sym)
            shape = (6, 2 * block_type.block)
            kind = _Kind(shape, *scheme, stacked, scales=block_type.nested)
            name_of = f"a search finds the oracle's super-blocks [{name}-{stacked} importances]"
            yield Case(name_of, partial(_search, kind))


def _draw(kind: _Kind) -> tuple[Tensor, Tensor | None]:
    """Draw groups and importance: one-sided and outlying weights, and channels of no importance."""
    rng = np.random.default_rng(kind.bits + 10 * kind.stacked)
    weight = rng.normal(size=kind.shape) * 0.05
    weight[1] = np.abs(weight[1]) + 0.1
    weight[2, ::17] *= 8
    groups = to_groups(torch.from_numpy(weight).float(), kind.group_size)
    if not kind.stacked:
        return groups, None
    power = rng.chisquare(1, size=(kind.stacked, *groups.shape[1:]))
    power[..., ::11] = 0.0
    return groups, torch.from_numpy(power).float()


def _search(kind: _Kind, subject: Subject) -> None:
    groups, importance = _draw(kind)
    device = subject.runtime.device
    levels = integer_levels(kind.bits, sym=kind.sym, lowest_zero=kind.lowest)
    grid = subject.runtime.ops.search_scales(
        groups.to(device),
        None if importance is None else importance.to(device),
        levels,
        scales=kind.scales,
    )
    require(grid.lo.device.type == device.type, f"the ranges are on {grid.lo.device}")
    same_kind = grid.levels == levels and grid.scales == kind.scales
    require(same_kind and grid.lo.shape == groups[..., :1].shape, "another kind of grid")
    grid = grid.to(torch.device("cpu"))
    ones = torch.ones_like(grid.lo)
    params = quant_params(grid, ones, ones)
    scale, zero = (part.double().numpy().reshape(-1, 1) for part in (params.scale, params.zero))
    minimum = np.zeros_like(scale)
    if params.minimum is not None:
        minimum = params.minimum.double().numpy().reshape(-1, 1)
    wanted, weights = _oracle_result(kind, groups, importance)
    equal = (scale == wanted.scale) & (zero == wanted.zero) & (minimum == wanted.minimum)
    least = EQUAL_NESTED if isinstance(kind.scales, Nested) else EQUAL
    require(bool(equal.mean() >= least), f"{equal.mean():.3f} of the groups have the same scale")
    exact = groups.double().numpy().reshape(-1, groups.shape[-1])
    ours = oracle.Scales(scale, zero, minimum, wanted.error)
    error = oracle.weighted_error(exact, weights, ours, top=levels.top)
    ratio = float(((error + 1e-12) / (wanted.error + 1e-12)).mean())
    require(ratio <= 1 + CLOSE, f"{ratio:.4f} times the oracle's error")


def _oracle_result(
    kind: _Kind, groups: Tensor, importance: Tensor | None
) -> tuple[oracle.Scales, reference.Array]:
    """Return what the oracle finds, and the importance of every weight, [n, width]."""
    exact = groups.double().numpy()
    if importance is not None:
        weights = np.repeat(importance.double().numpy(), len(exact) // kind.stacked, axis=0)
    elif isinstance(kind.scales, Nested):
        weights = exact**2 + (exact**2).mean(-1, keepdims=True) + 1e-30
    else:
        weights = np.ones_like(exact)
    flat, weights = (part.reshape(-1, exact.shape[-1]) for part in (exact, weights))
    levels = oracle.Levels(kind.bits, kind.sym, kind.lowest)
    if not isinstance(kind.scales, Nested):
        return oracle.search(flat, weights, levels), weights
    each, low, high = kind.scales
    return oracle.search_super_blocks(flat, weights, levels, nested=(each, low, high)), weights
