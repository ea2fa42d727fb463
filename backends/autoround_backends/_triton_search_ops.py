"""The search for scales by our Triton kernels: one launch for all groups of a layer.

Experts of a layer are rows like others, each with the importance of its own inputs. Nothing is
waited for: what a kernel is told of a tensor are its arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from autoround.core.grids.grid import Grid
from autoround.core.grids.levels import AsymmetricLevels, IntegerLevels, LevelSet, ladder
from autoround.core.grids.scales import Nested, ScaleCodec
from autoround.core.search import REFINEMENTS
from autoround.core.search_nested import REFINEMENTS as NESTED_REFINEMENTS
from autoround.core.search_nested import rungs
from autoround_backends import _triton_search as kernels
from autoround_backends._search_layout import fits_layout, kernels_know

#: Elements a program holds at a time, and those of a group that stay in its registers.
BLOCK, BLOCK_W = 2048, 2048


class TritonSearch:
    """Starts the kernels of the search.

    Args:
        device: that tensors are on.
        on: makes the device the current one while a kernel is started.
        max_width: widest group that goes through the kernels.
    """

    def __init__(
        self,
        device: torch.device,
        on: Callable[[], AbstractContextManager[object]],
        *,
        max_width: int,
    ) -> None:
        self._device, self._on, self._max_width = device, on, max_width
        self._fractions: dict[tuple[float, ...], Tensor] = {}

    def fits(
        self, groups: Tensor, importance: Tensor | None, levels: LevelSet, scales: ScaleCodec
    ) -> bool:
        """Tell whether the kernels know these levels and scales, and the layout of the tensors."""
        here = all(
            tensor.device.type == self._device.type
            for tensor in (groups, importance)
            if tensor is not None
        )
        laid = fits_layout(groups, importance, scales, max_width=self._max_width)
        return here and laid and kernels_know(levels, scales)

    def search_grid(self, groups: Tensor, importance: Tensor | None, levels: IntegerLevels) -> Grid:
        """Find scales of one float16 a group, and zero points."""
        all_zeros = levels.bits == 2 and not levels.fixed_zero
        tries = 2 if levels.fixed_zero else 5
        if all_zeros:
            tries = levels.top + 1 - _lowest_zero(levels)
        return self._ladder(
            kernels.search,
            (groups, importance),
            levels,
            fractions=ladder(levels.bits),
            turns=(tries, REFINEMENTS),
            constants={"SYM": levels.fixed_zero, "ALL_ZEROS": all_zeros},
        )

    def fit_minima(self, groups: Tensor, importance: Tensor | None, levels: IntegerLevels) -> Grid:
        """Find a scale and a minimum for every group, which no super-block has rounded yet."""
        return self._ladder(
            kernels.fit_minima,
            (groups, importance),
            levels,
            fractions=rungs(levels.bits),
            turns=(2, NESTED_REFINEMENTS),
            constants={},
        )

    def correct(self, groups: Tensor, importance: Tensor | None, grid: Grid) -> Grid:
        """Round a grid to its super-blocks, and try the neighbours of their integers."""
        scales = grid.scales
        assert isinstance(scales, Nested)
        low = 1 if scales.has_minimum else scales.low
        lo, hi = self._start(
            kernels.correct,
            (groups, importance),
            (grid.lo, grid.hi),
            (float(grid.levels.count - 1), float(low), float(scales.high)),
            constants={"SYM": grid.levels.fixed_zero, "SUPER": scales.groups},
        )
        return grid._replace(lo=lo, hi=hi)

    def _ladder(
        self,
        kernel: Any,
        data: tuple[Tensor, Tensor | None],
        levels: IntegerLevels,
        *,
        fractions: Sequence[float],
        turns: tuple[int, int],
        constants: dict[str, Any],
    ) -> Grid:
        """Start a kernel that tries fractions; turns: tries of each, and refinements."""
        numbers = (len(fractions), *turns, float(levels.top), float(_lowest_zero(levels)))
        table = self._on_device(fractions)
        lo, hi = self._start(kernel, data, (table,), numbers, constants=constants)
        return Grid(lo, hi, levels)

    def _start(
        self,
        kernel: Any,
        data: tuple[Tensor, Tensor | None],
        tensors: Sequence[Tensor],
        numbers: Sequence[float],
        *,
        constants: dict[str, Any],
    ) -> tuple[Tensor, Tensor]:
        """Start a kernel over all groups; returns what it writes, float32 [rows, groups, 1]."""
        groups, importance = data
        rows, count, width = groups.shape
        total = rows * count
        wide = min(BLOCK_W, 1 << max(0, width - 1).bit_length())
        each = max(1, BLOCK // wide)
        lo, hi = (torch.empty((rows, count, 1), device=groups.device) for _ in range(2))
        per = 1 if importance is None else rows // importance.shape[0]
        with self._on():
            kernel[(-(-total // each),)](
                groups, groups if importance is None else importance, *tensors, lo, hi,
                total, count, per, *numbers,
                WIDTH=width, WEIGHTED=importance is not None, BLOCK_G=each, BLOCK_W=wide,
                # Products that are part of a sum must round as they do on a CPU.
                enable_fp_fusion=False, **constants,
            )  # fmt: skip
        return lo, hi

    def _on_device(self, fractions: Sequence[float]) -> Tensor:
        """Return the rungs of a ladder there: the host waits for their copy once."""
        key = tuple(fractions)
        if key not in self._fractions:
            self._fractions[key] = torch.tensor(key, dtype=torch.float32).to(self._device)
        return self._fractions[key]


def _lowest_zero(levels: IntegerLevels) -> int:
    """Return the least zero point; symmetric levels, whose one is fixed, do not read it."""
    return levels.lowest_zero if isinstance(levels, AsymmetricLevels) else 0
