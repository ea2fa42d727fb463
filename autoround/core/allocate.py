"""Bits by budget: the multiple-choice knapsack problem, solved exactly.

Every layer group (a layer, or layers that must agree) takes one of its choices; a choice has a
size and a loss. Either the least loss within a size is wanted, or the least size within a loss: the
same problem with the two exchanged, so there is one solver, of weights (limited) and costs (to be
least).

It is dynamic programming over the Pareto front: group by group, it keeps the partial choices that
no other one beats in both weight and cost. Most of them cannot become optimal: the linear
relaxation of the groups that are left, a convex curve known beforehand, bounds what each can
still reach, and a complete choice that is known bounds what it must. So the front stays short,
without a grid of sizes that would make the result inexact (Pisinger, "A minimal algorithm for the
multiple-choice knapsack problem", 1995, prunes by the same bound).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
#: Difference of sums in float64, relative to what is summed, that is not a difference.
SLACK = 1e-11
#: States of a stage that are completed greedily, for an upper bound of the optimum.
COMPLETED = 8


class Choice(NamedTuple):
    """One option of a layer group: bytes (or bits) that it takes, and its loss in quality."""

    size: float
    loss: float


class Allocation(NamedTuple):
    """Index of the choice of every layer group, and the sums of their sizes and losses."""

    picks: tuple[int, ...]
    size: float
    loss: float


class _Step(NamedTuple):
    """One step along the convex hull of a group's choices: more weight for less cost."""

    rate: float
    unit: int
    weight: float
    cost: float
    pick: int


def least_loss(units: Sequence[Sequence[Choice]], *, size: float) -> Allocation | None:
    """Choose for the least loss with at most ``size``.

    Args:
        units: the choices of each layer group, at least one; sizes below 2**53, losses finite.
        size: most that the choices may take together, in the unit of their sizes.

    Returns:
        The index of each group's choice, with the sums; None where nothing fits.
    """
    picks = _solve([[(c.size, c.loss) for c in unit] for unit in units], size)
    return None if picks is None else _allocation(units, picks)


def least_size(units: Sequence[Sequence[Choice]], *, loss: float) -> Allocation | None:
    """Choose for the least size with at most ``loss``.

    Args:
        units: as for :func:`least_loss`.
        loss: most that the choices may lose together, in the unit of their losses.

    Returns:
        The index of each group's choice, with the sums; None where nothing reaches the loss.
    """
    picks = _solve([[(c.loss, c.size) for c in unit] for unit in units], loss)
    return None if picks is None else _allocation(units, picks)


def curve(units: Sequence[Sequence[Choice]]) -> list[Allocation]:
    """Return the allocations on the convex hull of size against loss, the smallest first.

    Args:
        units: as for :func:`least_loss`.

    Returns:
        The first has each group's smallest choice; every other one differs from the one before it
        in one group, and is larger with less loss.
    """
    costs = [[(c.size, c.loss) for c in unit] for unit in units]
    picks = [_lightest(unit) for unit in costs]
    points = [_allocation(units, picks)]
    for step in _steps(costs):
        picks[step.unit] = step.pick
        before = points[-1]
        points.append(Allocation(tuple(picks), before.size + step.weight, before.loss + step.cost))
    return points


def _allocation(units: Sequence[Sequence[Choice]], picks: Sequence[int]) -> Allocation:
    chosen = [unit[pick] for unit, pick in zip(units, picks, strict=True)]
    return Allocation(tuple(picks), sum(c.size for c in chosen), sum(c.loss for c in chosen))


Unit = Sequence[tuple[float, float]]


def _lightest(unit: Unit) -> int:
    """Return the choice of least weight; of least cost among equals."""
    return min(range(len(unit)), key=lambda pick: unit[pick])


def _hull(unit: Unit) -> list[int]:
    """Return the choices on the lower convex hull, the lightest first."""
    order = sorted(range(len(unit)), key=lambda pick: unit[pick])
    hull: list[int] = []
    for pick in order:
        if hull and unit[pick][1] >= unit[hull[-1]][1]:
            continue  # heavier and no cheaper
        # A corner that lies above the line from the one before it to this one is none.
        while len(hull) > 1 and _rate(unit, hull[-2], hull[-1]) <= _rate(unit, hull[-1], pick):
            hull.pop()
        hull.append(pick)
    return hull


def _rate(unit: Unit, light: int, heavy: int) -> float:
    """Return the cost saved by one more of weight between two choices."""
    weight = unit[heavy][0] - unit[light][0]
    saved = unit[light][1] - unit[heavy][1]
    return saved / weight if weight > 0 else float("inf")


def _steps(units: Sequence[Unit]) -> list[_Step]:
    """Return the steps of all groups, the most rewarding first; a group's own stay in order."""
    steps = []
    for number, unit in enumerate(units):
        hull = _hull(unit)
        for light, heavy in pairwise(hull):
            weight, cost = unit[heavy][0] - unit[light][0], unit[heavy][1] - unit[light][1]
            steps.append(_Step(_rate(unit, light, heavy), number, weight, cost, heavy))
    return sorted(steps, key=lambda step: -step.rate)


class _Relaxation:
    """The linear relaxation of the groups that are left: least cost as a function of weight."""

    def __init__(self, units: Sequence[Unit], steps: Sequence[_Step], left: Sequence[int]) -> None:
        remaining = set(left)
        lightest = [units[unit][_lightest(units[unit])] for unit in left]
        #: Least weight of all that is left.
        self.weight = float(sum(w for w, _ in lightest))
        self._steps = [step for step in steps if step.unit in remaining]
        self._base = float(sum(c for _, c in lightest))
        moves = np.array([[s.weight, s.cost] for s in self._steps]).reshape(-1, 2)
        # Steps sorted by reward make a convex curve: [steps + 1, (weight, cost)].
        curve = np.vstack([[[self.weight, self._base]], moves]).cumsum(0)
        self._weights, self._costs = curve[:, 0], curve[:, 1]

    def bound(self, room: Floats) -> Floats:
        """Return a lower bound of the cost that can be reached within this weight."""
        cost: Floats = np.interp(room, self._weights, self._costs)
        return cost

    def greedy(self, room: float) -> float:
        """Return the cost of filling this weight greedily, leaving out steps that do not fit."""
        room, cost = room - self.weight, self._base
        stuck: set[int] = set()
        for step in self._steps:
            if step.unit in stuck:
                continue
            if step.weight <= room:
                room, cost = room - step.weight, cost + step.cost
            else:
                stuck.add(step.unit)  # later steps of a group build on the earlier ones
        return cost


class _Stage(NamedTuple):
    """Pareto front of partial choices, [n] each: weights rising, costs falling.

    parents: index of what each extends in the stage before. picks: the choice it adds.
    """

    weights: Floats
    costs: Floats
    parents: npt.NDArray[np.int64]
    picks: npt.NDArray[np.int64]


def _solve(units: Sequence[Unit], capacity: float) -> list[int] | None:
    """Return the picks of least cost whose weights sum up to at most ``capacity``."""
    allowed = capacity + abs(capacity) * SLACK
    # The heaviest first: the groups left are then fine-grained, and their bound is tight.
    order = sorted(range(len(units)), key=lambda number: -max(w for w, _ in units[number]))
    steps = _steps(units)
    upper_bound = float("inf")
    slack = sum(max(abs(c) for _, c in unit) for unit in units) * SLACK
    nothing = np.zeros(1, dtype=np.int64)
    stages = [_Stage(np.zeros(1), np.zeros(1), nothing, nothing)]
    for position, number in enumerate(order):
        relaxation = _Relaxation(units, steps, order[position + 1 :])
        stage = _extend(stages[-1], units[number])
        room = allowed - stage.weights
        stage = _select(stage, np.flatnonzero(room >= relaxation.weight))
        if not len(stage.weights):
            return None
        lower_bounds = stage.costs + relaxation.bound(allowed - stage.weights)
        # Complete the most promising ones: the tighter the upper bound, the shorter the front.
        for state in np.argsort(lower_bounds, kind="stable")[:COMPLETED]:
            cost = float(stage.costs[state])
            complete = cost + relaxation.greedy(allowed - float(stage.weights[state]))
            upper_bound = min(upper_bound, complete)
        stages.append(_select(stage, np.flatnonzero(lower_bounds <= upper_bound + slack)))
    return _trace_back(stages, order)


def _extend(stage: _Stage, unit: Unit) -> _Stage:
    """Extend every partial choice by every choice of a group; keep the Pareto front."""
    count = len(stage.weights)
    weights = np.concatenate([stage.weights + w for w, _ in unit])
    costs = np.concatenate([stage.costs + c for _, c in unit])
    parents = np.tile(np.arange(count), len(unit))
    picks = np.repeat(np.arange(len(unit)), count)
    order = np.lexsort((costs, weights))
    sorted_costs = costs[order]
    # Sorted by weight, a state is on the front if it costs less than all lighter ones.
    cheapest_before = np.concatenate([[np.inf], np.minimum.accumulate(sorted_costs)[:-1]])
    front = order[sorted_costs < cheapest_before]
    return _Stage(weights[front], costs[front], parents[front], picks[front])


def _select(stage: _Stage, states: npt.NDArray[np.int64]) -> _Stage:
    weights, costs, parents, picks = stage
    return _Stage(weights[states], costs[states], parents[states], picks[states])


def _trace_back(stages: Sequence[_Stage], order: Sequence[int]) -> list[int]:
    """Go back from the cheapest last state to its picks, in the order of the groups."""
    state = int(np.argmin(stages[-1].costs))
    picks = [0] * len(order)
    for stage, number in zip(reversed(stages[1:]), reversed(order), strict=True):
        picks[number] = int(stage.picks[state])
        state = int(stage.parents[state])
    return picks
