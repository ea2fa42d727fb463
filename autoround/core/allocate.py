"""Bits by budget: the multiple-choice knapsack, solved exactly.

Every unit (a layer, or layers that must agree) takes one of its choices; a choice has a size and
a loss. Either the least loss within a size is wanted, or the least size within a loss: the same
problem with the two turned, so there is one solver.

It goes through the units and keeps, of all ways to choose so far, those that no other one beats
in both respects (dynamic programming over the Pareto front). Most of them cannot become the
answer: the linear relaxation of what is left, which is a convex curve known beforehand, says how
good a way can still get, and a complete one that is known says how good it must. So the front stays
short, without a grid of sizes that would make the answer inexact (Pisinger, "A minimal algorithm
for the multiple-choice knapsack problem", 1995, prunes by the same bound).
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
#: States of a stage that are completed greedily, to know how good an answer must be.
COMPLETED = 8


class Choice(NamedTuple):
    """One option of a unit: bytes (or bits) that it takes, and what it costs in quality."""

    size: float
    loss: float


class Allocation(NamedTuple):
    """The choice of every unit, and the sums of their sizes and losses."""

    picks: tuple[int, ...]
    size: float
    loss: float


class _Step(NamedTuple):
    """One move along the convex hull of a unit's choices: more weight for less cost."""

    rate: float
    unit: int
    weight: float
    cost: float
    pick: int


def least_loss(units: Sequence[Sequence[Choice]], *, size: float) -> Allocation | None:
    """Choose for the least loss with at most ``size``; None where nothing fits.

    units: the choices of each unit, at least one; sizes below 2**53, losses finite.
    """
    found = _solve([[(c.size, c.loss) for c in unit] for unit in units], size)
    return None if found is None else _summed(units, found)


def least_size(units: Sequence[Sequence[Choice]], *, loss: float) -> Allocation | None:
    """Choose for the least size with at most ``loss``; None where nothing reaches it."""
    found = _solve([[(c.loss, c.size) for c in unit] for unit in units], loss)
    return None if found is None else _summed(units, found)


def curve(units: Sequence[Sequence[Choice]]) -> list[Allocation]:
    """Return the allocations on the convex hull of size against loss, the smallest first."""
    costs = [[(c.size, c.loss) for c in unit] for unit in units]
    picks = [_lightest(unit) for unit in costs]
    found = [_summed(units, picks)]
    for step in _steps(costs):
        picks[step.unit] = step.pick
        before = found[-1]
        found.append(Allocation(tuple(picks), before.size + step.weight, before.loss + step.cost))
    return found


def _summed(units: Sequence[Sequence[Choice]], picks: Sequence[int]) -> Allocation:
    chosen = [unit[pick] for unit, pick in zip(units, picks, strict=True)]
    return Allocation(tuple(picks), sum(c.size for c in chosen), sum(c.loss for c in chosen))


Unit = Sequence[tuple[float, float]]


def _lightest(unit: Unit) -> int:
    """Return the choice of least weight; of least cost among equals."""
    return min(range(len(unit)), key=lambda pick: unit[pick])


def _hull(unit: Unit) -> list[int]:
    """Return the choices on the lower convex hull, the lightest first."""
    order = sorted(range(len(unit)), key=lambda pick: unit[pick])
    found: list[int] = []
    for pick in order:
        if found and unit[pick][1] >= unit[found[-1]][1]:
            continue
        while len(found) > 1 and _rate(unit, found[-2], found[-1]) <= _rate(unit, found[-1], pick):
            found.pop()
        found.append(pick)
    return found


def _rate(unit: Unit, one: int, other: int) -> float:
    """Return what a unit of weight saves between two choices."""
    weight = unit[other][0] - unit[one][0]
    saved = unit[one][1] - unit[other][1]
    return saved / weight if weight > 0 else float("inf")


def _steps(units: Sequence[Unit]) -> list[_Step]:
    """Return the moves of all units, the most rewarding first; a unit's own stay in order."""
    found = []
    for number, unit in enumerate(units):
        hull = _hull(unit)
        for one, other in pairwise(hull):
            weight, cost = unit[other][0] - unit[one][0], unit[other][1] - unit[one][1]
            found.append(_Step(_rate(unit, one, other), number, weight, cost, other))
    return sorted(found, key=lambda step: -step.rate)


class _Rest:
    """The linear relaxation of the units that are left: least cost as a function of weight."""

    def __init__(self, units: Sequence[Unit], steps: Sequence[_Step], left: Sequence[int]) -> None:
        own = set(left)
        lightest = [units[unit][_lightest(units[unit])] for unit in left]
        #: Least weight of all that is left.
        self.weight = float(sum(w for w, _ in lightest))
        self._steps = [step for step in steps if step.unit in own]
        self._base = float(sum(c for _, c in lightest))
        moves = np.array([[s.weight, s.cost] for s in self._steps]).reshape(-1, 2)
        corners = np.vstack([[[self.weight, self._base]], moves]).cumsum(0)
        self._weights, self._costs = corners[:, 0], corners[:, 1]

    def bound(self, room: Floats) -> Floats:
        """Return the least cost that can be reached with this room, or less than that."""
        found: Floats = np.interp(room, self._weights, self._costs)
        return found

    def greedy(self, room: float) -> float:
        """Return the cost of one way to fill a room, moves that do not fit left out."""
        room, cost = room - self.weight, self._base
        stuck: set[int] = set()
        for step in self._steps:
            if step.unit in stuck:
                continue
            if step.weight <= room:
                room, cost = room - step.weight, cost + step.cost
            else:
                stuck.add(step.unit)
        return cost


class _Stage(NamedTuple):
    """Ways to choose so far: weights rising, costs falling, and where each came from."""

    weights: Floats
    costs: Floats
    parents: npt.NDArray[np.int64]
    picks: npt.NDArray[np.int64]


def _solve(units: Sequence[Unit], capacity: float) -> list[int] | None:
    """Return the picks of least cost whose weights sum up to at most ``capacity``."""
    allowed = capacity + abs(capacity) * SLACK
    # The heaviest first: what is left is then fine-grained, and its bound is tight.
    order = sorted(range(len(units)), key=lambda number: -max(w for w, _ in units[number]))
    steps = _steps(units)
    known = float("inf")
    slack = sum(max(abs(c) for _, c in unit) for unit in units) * SLACK
    nothing = np.zeros(1, dtype=np.int64)
    stages = [_Stage(np.zeros(1), np.zeros(1), nothing, nothing)]
    for place, number in enumerate(order):
        rest = _Rest(units, steps, order[place + 1 :])
        grown = _grown(stages[-1], units[number])
        room = allowed - grown.weights
        grown = _at(grown, np.flatnonzero(room >= rest.weight))
        if not len(grown.weights):
            return None
        reach = grown.costs + rest.bound(allowed - grown.weights)
        for state in np.argsort(reach, kind="stable")[:COMPLETED]:
            own = float(grown.costs[state])
            known = min(known, own + rest.greedy(allowed - float(grown.weights[state])))
        stages.append(_at(grown, np.flatnonzero(reach <= known + slack)))
    return _traced(stages, order)


def _grown(stage: _Stage, unit: Unit) -> _Stage:
    """Extend every way by every choice of a unit; keep what nothing else beats."""
    count = len(stage.weights)
    weights = np.concatenate([stage.weights + w for w, _ in unit])
    costs = np.concatenate([stage.costs + c for _, c in unit])
    parents = np.tile(np.arange(count), len(unit))
    picks = np.repeat(np.arange(len(unit)), count)
    order = np.lexsort((costs, weights))
    sorted_costs = costs[order]
    before = np.concatenate([[np.inf], np.minimum.accumulate(sorted_costs)[:-1]])
    kept = order[sorted_costs < before]
    return _Stage(weights[kept], costs[kept], parents[kept], picks[kept])


def _at(stage: _Stage, kept: npt.NDArray[np.int64]) -> _Stage:
    return _Stage(stage.weights[kept], stage.costs[kept], stage.parents[kept], stage.picks[kept])


def _traced(stages: Sequence[_Stage], order: Sequence[int]) -> list[int]:
    """Go back from the best last state to the picks it came from, in the units' own order."""
    state = int(np.argmin(stages[-1].costs))
    picks = [0] * len(order)
    for stage, number in zip(reversed(stages[1:]), reversed(order), strict=True):
        picks[number] = int(stage.picks[state])
        state = int(stage.parents[state])
    return picks
