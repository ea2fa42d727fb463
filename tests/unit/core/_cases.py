"""Weights worth trying, drawn by hypothesis, and the oracle's view of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from autoround.core.grids.grid import Grid, min_max_grid, to_groups
from autoround.core.grids.levels import IntegerLevels, integer_levels
from autoround.core.rounding import Rounding
from autoround.types import LEGAL_BITS, PER_CHANNEL, PER_TENSOR
from autoround_backends import reference

#: Deterministic and few: the point is the variety of kinds and shapes, not the count.
few = settings(max_examples=40, deadline=None, derandomize=True)
fewer = settings(max_examples=12, deadline=None, derandomize=True)

KINDS = (
    "normal",
    "heavy",
    "positive",
    "negative",
    "constant",
    "dead groups",
    "one outlier",
    "tiny",
    "small",
    "huge",
    "on the levels",
)
#: One row, one column, in < group, in % group != 0, and a fused 3-D weight among them.
SHAPES = ((1, 32), (4, 64), (3, 50), (2, 7), (5, 1), (9, 33), (2, 3, 40), (3, 2, 32))
GROUP_SIZES = (7, 16, 32, 128, PER_CHANNEL, PER_TENSOR)


@dataclass(frozen=True)
class Case:
    """One weight with a scheme and a state of tuning; ``moved`` is False at its start."""

    shape: tuple[int, ...]
    group_size: int
    bits: int
    sym: bool
    kind: str
    moved: bool
    seed: int

    @property
    def top(self) -> int:
        return int(2**self.bits - 1)

    @property
    def weight(self) -> Tensor:
        """float32, of ``shape``."""
        rng = np.random.default_rng(self.seed)
        weight = rng.normal(size=self.shape)
        if self.kind == "heavy":
            weight = rng.standard_t(2, size=self.shape)
        elif self.kind == "positive":
            weight = np.abs(weight) + 0.1
        elif self.kind == "negative":
            weight = -np.abs(weight) - 0.1
        elif self.kind == "constant":
            weight = np.full(self.shape, weight.flat[0])
        elif self.kind == "dead groups":
            weight.reshape(-1)[: weight.size // 2] = 0.0
        elif self.kind == "one outlier":
            weight.flat[rng.integers(weight.size)] = 60.0
        elif self.kind == "on the levels":
            # Multiples of half a level: every other one is a tie.
            weight = rng.integers(-2 * self.top, 2 * self.top + 1, size=self.shape) / 8.0
        scale = {"tiny": 1e-8, "small": 1e-3, "huge": 1e4}.get(self.kind, 1.0)
        return torch.from_numpy(weight * scale).float()

    @property
    def groups(self) -> Tensor:
        return to_groups(self.weight, self.group_size)

    @property
    def grid(self) -> Grid:
        return min_max_grid(self.groups, integer_levels(self.bits, sym=self.sym))

    @property
    def rounding(self) -> Rounding:
        rng = np.random.default_rng(self.seed + 1)
        groups = self.groups
        if not self.moved:
            one = torch.ones_like(groups[..., :1])
            return Rounding(torch.zeros_like(groups), one, one.clone())
        factors = [rng.uniform(0.4, 1.1, size=groups[..., :1].shape) for _ in range(2)]
        for factor in factors:  # the ends of what tuning can reach
            factor[rng.random(factor.shape) < 0.1] = 0.0
            factor[rng.random(factor.shape) < 0.1] = 1.0
        offset = rng.uniform(-0.6, 0.6, size=groups.shape)
        return Rounding(*(torch.from_numpy(part).float() for part in (offset, *factors)))

    @property
    def upstream(self) -> Tensor:
        rng = np.random.default_rng(self.seed + 2)
        return torch.from_numpy(rng.normal(size=self.groups.shape)).float()


def cases(kinds: tuple[str, ...] = KINDS) -> st.SearchStrategy[Case]:
    """Draw cases of all shapes, group sizes, widths and states."""
    return st.builds(
        Case,
        shape=st.sampled_from(SHAPES),
        group_size=st.sampled_from(GROUP_SIZES),
        bits=st.sampled_from(LEGAL_BITS),
        sym=st.booleans(),
        kind=st.sampled_from(kinds),
        moved=st.booleans(),
        seed=st.integers(0, 2**31),
    )


def oracle_grid(grid: Grid) -> reference.Grid:
    levels = grid.levels
    assert isinstance(levels, IntegerLevels)
    lo, hi = grid.lo.double().numpy(), grid.hi.double().numpy()
    return reference.Grid(lo, hi, levels.bits, levels.sym)


def oracle_rounding(rounding: Rounding) -> reference.Rounding:
    return reference.Rounding(*(part.detach().double().numpy() for part in rounding))
