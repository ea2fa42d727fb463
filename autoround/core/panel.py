"""Columns of a weight rounded one after the other, each making up for those before it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class ColumnBlock(NamedTuple):
    """A run of columns, laid out in rows; all float32.

    weight: [columns, rows], may be overwritten. scale, low, minimum: [columns, rows], of each
    weight's group: its step, its lowest level and what is taken off the grid. upper: [columns,
    columns], the part of the factor that belongs to these columns. top: levels above the lowest.
    """

    weight: Tensor
    scale: Tensor
    low: Tensor
    minimum: Tensor
    upper: Tensor
    top: int


@torch.no_grad()
def gptq_block(panel: ColumnBlock) -> tuple[Tensor, Tensor]:
    """Round the columns of a panel in turn (GPTQ, arXiv 2210.17323, eq. 2-3).

    Returns what each weight was in units of its scale when its turn came, and the error that
    is left for later columns to make up for; both float32 [columns, rows].
    """
    weight, scale, low, minimum, upper, top = panel
    high = low + top
    aimed, errors = torch.empty_like(weight), torch.empty_like(weight)
    for j in range(len(weight)):
        now, row = weight[j], upper[j]
        torch.div(now + minimum[j], scale[j], out=aimed[j])
        level = torch.minimum(torch.maximum(aimed[j].round(), low[j]), high[j])
        error = (now - (level * scale[j] - minimum[j])).div_(row[j])
        weight[j + 1 :].addr_(row[j + 1 :], error, alpha=-1.0)
        errors[j] = error
    return aimed, errors
