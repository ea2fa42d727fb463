"""Offsets that make up for each other's rounding errors: where a short descent starts.

Rounding to nearest leaves errors that add up wherever input channels move together. With G the
Gram matrix of a layer's inputs, the error of its output is ``tr(D G D')``, D the change of the
weights. Columns are rounded one after the other, those that are driven most first; the error of
each is made up for in the columns that are still to come (GPTQ, arXiv 2210.17323, eq. 2-3). The
grids stay as they are, so any order of columns will do.

What comes out is no set of codes but an offset of each weight, in units of its scale: that of
the weight as the columns before it have changed it. Rounded, it gives the compensated codes, and
a descent finds each weight as far from the next level as it really is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from autoround.core.grid import Levels, from_groups, levels_of
from autoround.core.panel import ColumnBlock, gptq_block
from autoround.core.rtn import Target

#: What is added to the correlations' diagonal: calibration has few tokens, and what a column is
#: told of the others is worth the less the fewer there are. (Chosen at 8 thousand tokens.)
DAMPING = 0.1
#: Least mean square of a channel, as a share of the mean of all.
FLOOR = 1e-6
#: Columns between two updates of all that come after.
COLUMNS = 64
#: What rounds the columns of a panel; see round_panel.
Rounded = Callable[[ColumnBlock], tuple[Tensor, Tensor]]


class InverseCholesky(NamedTuple):
    """What compensation needs of a Gram matrix; layers of the same input share it.

    order: int64 [in], columns by how strongly they are driven. upper: float32 [in, in], the
    upper Cholesky factor of the inverse of the damped matrix, in that order.
    """

    order: Tensor
    upper: Tensor


@torch.no_grad()
def inverse_cholesky(gram: Tensor) -> InverseCholesky | None:
    """Factor the inverse of a Gram matrix.

    gram: float32 [in, in], sums of products of inputs. Returns None where it holds nothing or
    no finite numbers.
    """
    power = gram.diagonal()
    mean = float(power.mean())
    if not 0.0 < mean < float("inf"):
        return None
    power = power.clamp_min(FLOOR * mean)
    order = torch.argsort(power, descending=True, stable=True)
    root = power[order].sqrt()
    # Correlations, since powers of channels lie many digits of float32 apart.
    related = gram[order][:, order] / (root[:, None] * root)
    related.diagonal().fill_(1.0 + DAMPING)
    lower, failed = torch.linalg.cholesky_ex(related)
    if int(failed):
        return None
    upper = torch.linalg.cholesky(torch.cholesky_inverse(lower), upper=True)
    # Columns take its rows, and solvers leave it laid out by columns.
    return InverseCholesky(order, (upper / root).contiguous())


@torch.no_grad()
def gptq_offsets(task: Target, factor: InverseCholesky, *, rounded: Rounded = gptq_block) -> Tensor:
    """Return the offset of each weight once the errors of columns before it are made up for.

    rounded: what rounds the columns of a panel in turn. Returns float32 of the shape of the
    task's groups, 0 in the padding.
    """
    groups, grid = task.groups, task.grid
    one = torch.ones_like(grid.lo)
    order, columns = factor.order, len(factor.order)
    # Columns lie in rows, so that each step works on whole ones.
    weight = _columns(groups, task, order)
    scale, low, minimum = (_columns(t, task, order) for t in _held(levels_of(grid, one, one)))
    plain = torch.div(weight + minimum, scale)
    aimed = torch.empty_like(weight)
    for start in range(0, columns, COLUMNS):
        end = min(start + COLUMNS, columns)
        part = slice(start, end)
        upper = factor.upper[part]
        aimed[part], errors = rounded(
            ColumnBlock(
                weight[part],
                scale[part],
                low[part],
                minimum[part],
                upper[:, part],
                2**grid.bits - 1,
            )
        )
        weight[end:].addmm_(upper[:, end:].t(), errors, alpha=-1.0)
    offsets = torch.empty((weight.shape[1], columns), device=weight.device)
    offsets[:, order] = (aimed - plain).t()
    if len(groups) == 1:
        return offsets.reshape(groups.shape)  # one group for all of it, or a single row
    padding = groups.shape[1] * groups.shape[2] - columns
    return torch.nn.functional.pad(offsets, (0, padding)).reshape(groups.shape)


def _held(levels: Levels) -> tuple[Tensor, Tensor, Tensor]:
    """Return scale, lowest level and minimum of every group, each [rows, groups, 1]."""
    scale, zero, minimum = levels
    return scale, -zero, torch.zeros_like(scale) if minimum is None else minimum


def _columns(values: Tensor, task: Target, order: Tensor) -> Tensor:
    """Lay values of groups out by columns, in their order: [in, rows]."""
    matrix = from_groups(values.expand(task.groups.shape), task.shape)
    return matrix[:, order].t().contiguous()
