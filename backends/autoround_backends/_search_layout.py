"""Which groups the kernels of the search take, told without Triton."""

from __future__ import annotations

import torch
from torch import Tensor

from autoround.core.grids.levels import IntegerLevels, LevelSet
from autoround.core.grids.scales import Half, Nested, ScaleCodec

#: Wider groups, such as one for a whole tensor, would be the work of one program.
MAX_WIDTH = 1 << 15
#: Groups of a super-block, and elements of it at most: what a program works on holds whole ones.
SUPER_BLOCKS, MAX_SUPER = (1, 2, 4, 8, 16, 32), 2048


def kernels_know(levels: LevelSet, scales: ScaleCodec) -> bool:
    """Tell whether there is a kernel for levels and the codec of their scales."""
    if not isinstance(levels, IntegerLevels):
        return False
    if isinstance(scales, Nested):
        # Levels with a zero point and no minimum are in no block type, nor are larger super-blocks,
        # which a program would have to hold as a whole.
        return scales.has_minimum != levels.fixed_zero and scales.groups in SUPER_BLOCKS
    return isinstance(scales, Half)


def fits_layout(
    groups: Tensor,
    importance: Tensor | None,
    scales: ScaleCodec,
    *,
    max_width: int = MAX_WIDTH,
) -> bool:
    """Tell whether the kernels can read groups and their importance as they lie in memory."""
    rows, count, width = groups.shape
    if not _plain(groups) or not groups.numel() or width > max_width:
        return False
    if isinstance(scales, Nested):
        elements = scales.groups * (1 << (width - 1).bit_length())
        if count % scales.groups or elements > MAX_SUPER:
            return False
    if importance is None:
        return True
    alike = importance.dim() == 3 and tuple(importance.shape[1:]) == (count, width)
    return alike and _plain(importance) and rows % importance.shape[0] == 0


def _plain(tensor: Tensor) -> bool:
    return tensor.dtype == torch.float32 and tensor.is_contiguous()
