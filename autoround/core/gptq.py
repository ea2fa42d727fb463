"""GPTQ-style error compensation, expressed as initial rounding offsets V.

Rounding to nearest leaves errors that add up wherever input channels move together. With
H = XXᵀ the Hessian of a layer's output error (GPTQ has 2XXᵀ; factors cancel), that error is
``tr(D H Dᵀ)``, D the change of the weights. Columns are rounded one after the other, those of
largest input power first; the error of each is compensated in the columns still to come (GPTQ,
arXiv 2210.17323, eq. 2-3, by the Cholesky factor of the inverse). The grids stay as they are, so
any order of columns will do.

The result is no set of codes but an offset of each weight, in levels: that of the weight as the
columns before it have changed it. Rounded, it gives GPTQ's codes, and tuning finds each weight as
far from the next level as it really is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from autoround.core.grids.grid import QuantParams, from_groups, quant_params
from autoround.core.grids.levels import LevelSet
from autoround.core.rtn import Target

#: Damping of the Hessian, as a share of each channel's power. GPTQ takes a hundredth of the mean
#: power; at a tenth of each layers still fit their calibration more than the model gains. (Chosen
#: at 3 and 4 bits, on 8 thousand tokens.)
DAMPING = 1.0
#: Least mean square of a channel, as a share of the mean of all.
FLOOR = 1e-6
#: Columns between two updates of all that come after: one addmm in place of many rank-1 updates.
COLUMNS = 64
#: Rows of a layer that may stand in one matrix with others: whole numbers of these.
PANEL_ROWS = 64
#: Weights that are compensated at a time, beside whole layers: half a gigabyte, which is needed
#: seven times over.
STACK_ELEMENTS = 1 << 27


class ColumnBlock(NamedTuple):
    """A run of columns, laid out in rows; all float32.

    weight: [columns, rows], may be overwritten. scale, low, minimum: [columns, rows], of each
    weight's group: its scale, its lowest level index and what is subtracted. upper: [columns,
    columns], the part of the inverse Hessian's Cholesky factor that belongs to these columns.
    levels: what level indices stand for.
    """

    weight: Tensor
    scale: Tensor
    low: Tensor
    minimum: Tensor
    upper: Tensor
    levels: LevelSet


#: Rounds the columns of a block in turn, as :func:`gptq_block` does.
RoundBlock = Callable[[ColumnBlock], tuple[Tensor, Tensor]]


@torch.no_grad()
def gptq_block(block: ColumnBlock) -> tuple[Tensor, Tensor]:
    """Round the columns of a block in turn (GPTQ, arXiv 2210.17323, eq. 2-3).

    Args:
        block: columns in rows; its weight is overwritten.

    Returns:
        The position of each weight among the level indices when its turn came, not rounded, and
        the error left for later columns to compensate; both float32 [columns, rows].
    """
    weight, scale, low, minimum, upper, levels = block
    high = low + (levels.count - 1)
    positions, errors = torch.empty_like(weight), torch.empty_like(weight)
    for j in range(len(weight)):
        column, row = weight[j], upper[j]
        position = torch.div(column + minimum[j], scale[j], out=positions[j])
        levels.position_(position)
        # Two comparisons: torch's clamp by tensors is several times slower.
        index = torch.minimum(torch.maximum(position.round(), low[j]), high[j])
        error = (column - (levels.value(index) * scale[j] - minimum[j])).div_(row[j])
        weight[j + 1 :].addr_(row[j + 1 :], error, alpha=-1.0)
        errors[j] = error
    return positions, errors


class InverseCholesky(NamedTuple):
    """What compensation needs of a Hessian; layers of the same input share it.

    order: int64 [in], columns by input power, largest first. upper: float32 [in, in], the upper
    Cholesky factor of the inverse of the damped Hessian, in that order.
    """

    order: Tensor
    upper: Tensor


@torch.no_grad()
def inverse_cholesky(hessian: Tensor) -> InverseCholesky | None:
    """Factor the inverse of a Hessian.

    Args:
        hessian: float32 [in, in], sums of products of inputs (XXᵀ), of any scale.

    Returns:
        The order of the columns and the factor; None where the Hessian holds nothing, no finite
        numbers, or none that a factor can be made of.
    """
    power = hessian.diagonal()
    mean = float(power.mean())
    if not 0.0 < mean < float("inf"):
        return None
    order, root, related = _correlations(hessian, power.clamp_min(FLOOR * mean))
    lower, failed = torch.linalg.cholesky_ex(related)
    del related
    if int(failed):
        return None
    inverse = torch.cholesky_inverse(lower)
    del lower
    upper = torch.linalg.cholesky(inverse, upper=True)
    del inverse
    # Columns take its rows, and solvers leave it laid out by columns.
    return InverseCholesky(order, upper.div_(root).contiguous())


def _correlations(hessian: Tensor, power: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return a damped Hessian as correlations, since powers of channels lie many digits apart.

    Args:
        hessian: float32 [in, in]. power: of the channels, [in], none of them zero.

    Returns:
        The order of the columns, largest power first; roots of the powers in it; and the matrix.
    """
    order = torch.argsort(power, descending=True, stable=True)
    root = power[order].sqrt()
    # In place, here and below: of wide layers each copy is a gigabyte.
    related = hessian[order][:, order].div_(root[:, None] * root)
    related.diagonal().fill_(1.0 + DAMPING)
    return order, root, related


@torch.no_grad()
def inverse_choleskys(hessians: Sequence[Tensor], *, queued: bool) -> list[InverseCholesky | None]:
    """Factor the inverses of several Hessians.

    Args:
        hessians: as for :func:`inverse_cholesky`.
        queued: whether to wait once for all of them, as a device of its own wants it, in place of
            three times for each; by one factorisation each, in place of three.

    Returns:
        One for each, as of :func:`inverse_cholesky`; queued, up to the order of sums.
    """
    if not queued or not hessians:
        return [inverse_cholesky(hessian) for hessian in hessians]
    factors, verdicts = zip(*map(_queued_inverse_cholesky, hessians), strict=True)
    usable = torch.stack(verdicts).to("cpu").tolist()
    return [factor if good else None for factor, good in zip(factors, usable, strict=True)]


def _queued_inverse_cholesky(hessian: Tensor) -> tuple[InverseCholesky, Tensor]:
    """Factor the inverse of a Hessian without waiting; returns the factor, and if it is one.

    Read backwards, the matrix P H P (P turns the order round) is L Lᵀ. Then H⁻¹ = Uᵀ U with the
    upper U = P L⁻¹ P, which is what the second factorisation of :func:`inverse_cholesky` finds.
    """
    power = hessian.diagonal()
    mean = power.mean()
    usable = (mean > 0.0) & (mean < float("inf"))
    order, root, related = _correlations(hessian, torch.maximum(power, FLOOR * mean))
    lower, failed = torch.linalg.cholesky_ex(related.flip(0, 1))
    del related
    usable &= failed == 0
    # What follows must not fail for a factor that nobody will use: it gets the identity's.
    broken = ~usable
    lower.masked_fill_(broken, 0.0)
    lower.diagonal().add_(broken.float())
    identity = torch.eye(len(lower), device=lower.device)
    inverse = torch.linalg.solve_triangular(lower, identity, upper=False)
    del lower, identity
    return InverseCholesky(order, inverse.flip(0, 1).div_(root).contiguous()), usable


@torch.no_grad()
def gptq_offsets(
    target: Target,
    factor: InverseCholesky,
    *,
    round_block: RoundBlock = gptq_block,
    block_columns: int = COLUMNS,
) -> Tensor:
    """Return the offset V of each weight once the errors of columns before it are compensated.

    Args:
        target: the weight and its grid; its own offsets are not read.
        factor: of the Hessian of its inputs.
        round_block: rounds the columns of a block in turn.
        block_columns: columns of a block; the last one may have fewer.

    Returns:
        float32 of the shape of the target's groups, 0 in the padding.
    """
    return stacked_gptq_offsets(
        [target], factor, round_block=round_block, block_columns=block_columns
    )[0]


def gather_stacks(layers: Mapping[str, tuple[LevelSet, Sequence[int]]]) -> list[list[str]]:
    """Gather layers of one input that are compensated as one matrix.

    Their levels are the same. Libraries add the products of some rows at the end of a matrix in
    another order; with whole panels of rows, a layer's numbers are those it has alone.

    Args:
        layers: the levels and the shape of each, by name.

    Returns:
        The names, those of one matrix together.
    """
    stacks: list[list[str]] = []
    room: dict[LevelSet, int] = {}
    latest: dict[LevelSet, list[str]] = {}
    for name, (levels, shape) in layers.items():
        size, whole = prod(shape), shape[0] % PANEL_ROWS == 0
        if whole and size <= room.get(levels, 0):
            latest[levels].append(name)
            room[levels] -= size
            continue
        stacks.append([name])
        if whole:
            latest[levels], room[levels] = stacks[-1], STACK_ELEMENTS - size
    return stacks


@torch.no_grad()
def stacked_gptq_offsets(
    targets: Sequence[Target],
    factor: InverseCholesky,
    *,
    round_block: RoundBlock = gptq_block,
    block_columns: int = COLUMNS,
) -> list[Tensor]:
    """Return the offsets V of weights of the same input, compensated as one matrix.

    Rows do not know each other: each is compensated as it would be alone.

    Args:
        targets: weights and their grids, all of the same levels; their own offsets are not read.
        factor: of the Hessian of their inputs.
        round_block: rounds the columns of a block in turn.
        block_columns: columns of a block; the last one may have fewer.

    Returns:
        For each target float32 of the shape of its groups, 0 in the padding.
    """
    order, columns, levels = factor.order, len(factor.order), targets[0].grid.levels
    # Columns lie in rows, [in, rows], so that each step works on whole ones.
    weight, scale, low, minimum = _stack(targets, order)
    plain = levels.position_(torch.div(weight + minimum, scale))
    positions = torch.empty_like(weight)
    for start in range(0, columns, block_columns):
        end = min(start + block_columns, columns)
        part = slice(start, end)
        upper = factor.upper[part]
        positions[part], errors = round_block(
            ColumnBlock(weight[part], scale[part], low[part], minimum[part], upper[:, part], levels)
        )
        weight[end:].addmm_(upper[:, end:].t(), errors, alpha=-1.0)
    del weight, scale, low, minimum
    positions.sub_(plain)
    del plain
    rows = [target.shape[0] for target in targets]
    parts = positions.split(rows, dim=1)
    return [_in_groups(part, target, order) for part, target in zip(parts, targets, strict=True)]


def _stack(targets: Sequence[Target], order: Tensor) -> list[Tensor]:
    """Lay weights, scales, lowest indices and minima out by columns, in their order: [in, rows]."""
    kinds: list[tuple[Tensor, ...]] = []
    for target in targets:
        one = torch.ones_like(target.grid.lo)
        kinds.append((target.groups, *_bounds(quant_params(target.grid, one, one))))
    stacks = []
    # One kind after the other: what is put together is there twice.
    for parts in zip(*kinds, strict=True):
        laid_out = [_columns(*part, order) for part in zip(parts, targets, strict=True)]
        stacks.append(laid_out[0] if len(laid_out) == 1 else torch.cat(laid_out, dim=1))
        del laid_out
    return stacks


def _in_groups(by_column: Tensor, target: Target, order: Tensor) -> Tensor:
    """Lay offsets [in, rows] out as the groups of a target, with 0 in the padding."""
    groups, (rows, columns) = target.groups, target.shape
    offsets = torch.empty((rows, columns), device=groups.device)
    offsets[:, order] = by_column.t()  # back to [rows, in], in the weight's own order
    if len(groups) == 1:
        return offsets.reshape(groups.shape)  # one group for all of it, or a single row
    padding = groups.shape[1] * groups.shape[2] - columns
    return torch.nn.functional.pad(offsets, (0, padding)).reshape(groups.shape)


def _bounds(params: QuantParams) -> tuple[Tensor, Tensor, Tensor]:
    """Return scale, lowest level index and minimum of every group, each [rows, groups, 1]."""
    scale, zero, minimum = params
    return scale, -zero, torch.zeros_like(scale) if minimum is None else minimum


def _columns(per_weight: Tensor, target: Target, order: Tensor) -> Tensor:
    """Lay what groups have for their weights out by columns, in their order: [in, rows]."""
    matrix = from_groups(per_weight.expand(target.groups.shape), target.shape)
    return matrix[:, order].t().contiguous()
