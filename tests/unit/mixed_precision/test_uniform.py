from __future__ import annotations

import json

import pytest

from autoround.mixed_precision.budget import CURVE_POINTS, summary
from autoround.mixed_precision.uniform import uniform_allocations

from ...runs import even_device, small
from ...tiny import make_model
from .test_search import BASE, BUDGET, found_for

__all__ = ["even_device"]


def test_what_is_kept_of_an_allocation_has_its_curve_and_its_alternatives() -> None:
    chosen = found_for(make_model("llama"))
    kept = summary(small({**BASE, **BUDGET}), chosen)
    assert json.loads(json.dumps(kept)) == kept
    curve = kept["curve"]
    assert 2 <= len(curve) <= CURVE_POINTS
    assert curve == sorted(curve)
    assert [loss for _, loss in curve] == sorted((loss for _, loss in curve), reverse=True)
    first, last = chosen.corners[0], chosen.corners[-1]
    assert curve[0] == [8 * first.size / chosen.weights, first.loss]
    assert curve[-1] == [8 * last.size / chosen.weights, last.loss]
    uniform = {each.name: each for each in uniform_allocations(chosen)}
    assert [item["name"] for item in kept["uniform"]] == list(uniform)
    narrow, wide = uniform["W2 g32 asym"], uniform["W8 g32 asym"]
    assert narrow.bits < wide.bits
    assert narrow.loss > wide.loss
    # The same allocation, by its own parts.
    picks = [group.options.index(group.options[0]) for group in chosen.groups]
    assert narrow.loss == pytest.approx(
        sum(losses[pick] for losses, pick in zip(chosen.losses, picks, strict=True))
    )
