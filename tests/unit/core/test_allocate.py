"""The knapsack against exhaustive search and against an independent solver."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoround.core.allocate import Allocation, Choice, curve, least_loss, least_size

Units = list[list[Choice]]

_choices = st.lists(
    st.builds(Choice, st.integers(0, 40), st.floats(0, 10).map(lambda x: round(x, 2))),
    min_size=1,
    max_size=4,
)
_units = st.lists(_choices, min_size=1, max_size=5)


def everything(units: Units) -> list[tuple[float, float]]:
    ways = itertools.product(*units)
    return [(sum(c.size for c in way), sum(c.loss for c in way)) for way in ways]


def check_sums(units: Units, found: Allocation) -> None:
    chosen = [unit[pick] for unit, pick in zip(units, found.picks, strict=True)]
    assert found.size == sum(c.size for c in chosen)
    assert found.loss == sum(c.loss for c in chosen)


@settings(max_examples=150, deadline=None)
@given(_units, st.integers(0, 200))
def test_least_loss_is_that_of_exhaustive_search(units: Units, size: int) -> None:
    fitting = [loss for own, loss in everything(units) if own <= size]
    found = least_loss(units, size=size)
    if not fitting:
        assert found is None
        return
    assert found is not None
    check_sums(units, found)
    assert found.size <= size
    assert found.loss == pytest.approx(min(fitting), abs=1e-9)


@settings(max_examples=150, deadline=None)
@given(_units, st.floats(0, 30))
def test_least_size_is_that_of_exhaustive_search(units: Units, loss: float) -> None:
    fitting = [size for size, own in everything(units) if own <= loss]
    found = least_size(units, loss=loss)
    if not fitting:
        assert found is None or found.loss <= loss * (1 + 1e-9)
        return
    assert found is not None
    check_sums(units, found)
    assert found.loss <= loss * (1 + 1e-9) + 1e-12
    assert found.size <= min(fitting)


@settings(max_examples=60, deadline=None)
@given(_units)
def test_the_curve_is_convex_and_nothing_lies_below_it(units: Units) -> None:
    corners = curve(units)
    for corner in corners:
        check = [unit[pick] for unit, pick in zip(units, corner.picks, strict=True)]
        assert corner.size == sum(c.size for c in check)
        assert corner.loss == pytest.approx(sum(c.loss for c in check), abs=1e-9)
    sizes = np.array([corner.size for corner in corners])
    losses = np.array([corner.loss for corner in corners])
    assert (np.diff(sizes) > 0).all()
    assert (np.diff(losses) < 0).all()
    for size, loss in everything(units):
        assert loss >= float(np.interp(size, sizes, losses)) - 1e-9


def model_like(count: int, seed: int) -> Units:
    """Return units such as a model has: few sizes, losses over orders of magnitude."""
    rng = random.Random(seed)
    units = []
    for _ in range(count):
        weights = rng.choice([331_776, 110_592, 884_736, 884_736])
        worst = 10 ** rng.uniform(-5, 0)
        units.append(
            [
                Choice(weights * bits // 8 + weights // 64 * (16 + bits) // 8, worst * 5.0**-bits)
                for bits in (2, 3, 4, 8)
            ]
        )
    return units


@pytest.mark.parametrize("seed", [0, 1])
def test_model_sizes_agree_with_an_integer_program(seed: int) -> None:
    optimize = pytest.importorskip("scipy.optimize")
    units = model_like(60, seed)
    sizes = np.array([c.size for unit in units for c in unit])
    losses = np.array([c.loss for unit in units for c in unit])
    budget = 0.5 * sum(unit[0].size + unit[1].size for unit in units)
    one_each = np.kron(np.eye(len(units)), np.ones(4))
    answer = optimize.milp(
        losses / losses.max(),
        integrality=np.ones(len(losses)),
        bounds=optimize.Bounds(0, 1),
        constraints=[
            optimize.LinearConstraint(one_each, 1, 1),
            optimize.LinearConstraint(sizes[None] / budget, 0, 1),
        ],
        options={"mip_rel_gap": 1e-9},
    )
    found = least_loss(units, size=budget)
    assert found is not None
    assert found.size <= budget
    assert found.loss == pytest.approx(float(answer.fun) * losses.max(), rel=1e-6)
    turned = least_size(units, loss=found.loss)
    assert turned is not None
    assert turned.size <= found.size


def test_many_units_of_many_sizes_are_solved_exactly() -> None:
    """Sizes that never coincide, as many as a large model has layers."""
    rng = random.Random(3)
    units = []
    for _ in range(400):
        size, worst = rng.randint(10**6, 10**8), 10 ** rng.uniform(-6, -1)
        units.append(
            [Choice(size * b + rng.randint(0, 999), worst * 4.0**-b) for b in (2, 3, 4, 8)]
        )
    budget = 1.3 * sum(unit[0].size for unit in units)
    found = least_loss(units, size=budget)
    assert found is not None
    corners = curve(units)
    bound = np.interp(budget, [c.size for c in corners], [c.loss for c in corners])
    assert bound <= found.loss <= bound * 1.001


def test_nothing_fits() -> None:
    assert least_loss([[Choice(5, 1.0)]], size=4) is None
    assert least_size([[Choice(5, 1.0)]], loss=0.5) is None
