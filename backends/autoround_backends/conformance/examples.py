"""Weights with their grids and roundings in mid-tuning, on a device and in the oracle."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoround.core.grids.grid import Grid, min_max_grid, to_groups
from autoround.core.grids.levels import integer_levels
from autoround.core.rounding import Rounding
from autoround.types import PER_CHANNEL, PER_TENSOR
from autoround_backends import reference
from autoround_backends.conformance.subject import require


class Shape(NamedTuple):
    """A weight's shape, its group size and bits."""

    shape: tuple[int, ...]
    group_size: int
    bits: int

    def __str__(self) -> str:
        return f"{'x'.join(map(str, self.shape))}-g{self.group_size}-{self.bits}bit"


#: One row, in % group != 0, in < group, 3-D, more than a cache, and widths that are odd.
SHAPES = (
    Shape((1, 64), 32, 4),
    Shape((12, 96), 32, 2),
    Shape((12, 96), 32, 3),
    Shape((5, 50), 16, 5),
    Shape((6, 40), 128, 6),
    Shape((2, 4, 48), 16, 7),
    Shape((8, 64), PER_CHANNEL, 8),
    Shape((8, 64), PER_TENSOR, 4),
    Shape((3, 35), 7, 4),
    Shape((48, 2048), 128, 4),
)
#: Sizes of weights.
SIZES = {"normal": 1.0, "tiny": 1e-8, "small": 1e-3, "huge": 1e4}


class Example:
    """One weight with its grid and a rounding in mid-tuning."""

    def __init__(self, shape: Shape, *, sym: bool, size: float, seed: int | None = None) -> None:
        rng = np.random.default_rng(shape.bits if seed is None else seed)
        weight = rng.normal(size=shape.shape) * size
        # A group of zeros has a scale at its floor, whose gradient is zero.
        weight.reshape(-1, shape.shape[-1])[0, : min(shape.shape[-1], 16)] = 0.0
        self.groups = to_groups(torch.from_numpy(weight).float(), shape.group_size)
        self.bits, self.sym = shape.bits, sym
        self.grid = min_max_grid(self.groups, integer_levels(shape.bits, sym=sym))
        # Beyond one as well: searched ranges may widen.
        factors = [rng.uniform(0.4, 1.1, size=self.grid.lo.shape) for _ in range(2)]
        offset = rng.uniform(-0.6, 0.6, size=self.groups.shape)
        self.rounding = Rounding(*(torch.from_numpy(p).float() for p in (offset, *factors)))
        self.upstream = torch.from_numpy(rng.normal(size=self.groups.shape)).float()

    def on(self, device: torch.device) -> tuple[Tensor, Rounding, Grid]:
        """Copy groups, rounding and grid to a device."""
        grid = self.grid._replace(lo=self.grid.lo.to(device), hi=self.grid.hi.to(device))
        rounding = Rounding(*(part.clone().to(device) for part in self.rounding))
        return self.groups.to(device), rounding, grid

    @property
    def oracle(self) -> tuple[reference.Array, reference.Rounding, reference.Grid]:
        """The same in float64."""
        lo, hi = self.grid.lo.double().numpy(), self.grid.hi.double().numpy()
        return (
            self.groups.double().numpy(),
            reference.Rounding(*(part.double().numpy() for part in self.rounding)),
            reference.Grid(lo, hi, self.bits, self.sym),
        )

    @property
    def certain(self) -> NDArray[np.bool_]:
        """Where float32 cannot round another way; nearly everywhere, or nothing is compared."""
        weight, rounding, grid = self.oracle
        marks = reference.certain(weight, rounding, grid=grid)
        require(bool(marks.mean() > 0.8), "too little can be compared")
        return marks

    @property
    def certain_groups(self) -> NDArray[np.bool_]:
        """Groups whose scale and zero point float32 must agree on."""
        _, rounding, grid = self.oracle
        return reference.certain_groups(grid, rounding.min_scale, rounding.max_scale)
