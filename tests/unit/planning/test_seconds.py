"""The time of a pass as a range."""

from __future__ import annotations

import math

import pytest

from autoround.device.registry import open_device
from autoround.model.skeleton import adopt_model
from autoround.planning.plan import make_plan
from autoround.planning.seconds import (
    HANDLE_SECONDS,
    PACE,
    SEARCH_SECONDS,
    STEP_SECONDS,
    TAIL_PACE,
    pass_seconds,
)
from autoround.planning.tail import tail_seconds
from autoround.types import Plan

from ...runs import small
from ...tiny import make_model

LONG = {"calibration.nsamples": 8, "calibration.seqlen": 16, "tuning.threads": 1}


def plan_of(values: dict[str, object], kind: str = "llama") -> Plan:
    recipe, skeleton = small({**LONG, **values}), adopt_model(make_model(kind))
    return make_plan(recipe, skeleton, runtime=open_device("cpu"), calibration="", model="")


def span(values: dict[str, object]) -> tuple[float, float]:
    return pass_seconds(plan_of(values), open_device("cpu"), 0, written=0)


def weights_of(plan: Plan) -> int:
    return sum(math.prod(x.shape) for block in plan.blocks for x in block.quantized)


def test_without_data_it_is_reading_rounding_and_packing() -> None:
    plan = plan_of({"tuning.iters": 0, "tuning.init_scale": "minmax"})
    assert not plan.tuning.needs_data
    low, high = pass_seconds(plan, open_device("cpu"), 0, written=0)
    tail, handled = tail_seconds(plan, 0), HANDLE_SECONDS * weights_of(plan)
    assert low == pytest.approx(PACE[0] * handled + TAIL_PACE[0] * tail)
    assert high == pytest.approx(PACE[1] * handled + TAIL_PACE[1] * tail)


def test_steps_cost_more_than_their_products() -> None:
    few, many = (
        span({"tuning.iters": n, "tuning.init_rounding": "nearest"}) for n in (100, 10_000)
    )
    weights = weights_of(plan_of({}))
    assert many[0] - few[0] > PACE[0] * STEP_SECONDS * 9_900 * weights
    assert many[1] - few[1] > PACE[1] * STEP_SECONDS * 9_900 * weights


def test_search_and_compensation_are_in_it() -> None:
    nearest = {"tuning.iters": 1, "tuning.init_rounding": "nearest"}
    plain = span({**nearest, "tuning.init_scale": "minmax"})
    searched = span({**nearest, "tuning.init_scale": "search"})
    compensated = span({**nearest, "tuning.init_rounding": "gptq", "tuning.init_scale": "search"})
    weights = weights_of(plan_of({}))
    assert searched[1] - plain[1] == pytest.approx(PACE[1] * SEARCH_SECONDS * weights, rel=0.01)
    assert compensated[1] > searched[1]


def test_attention_widens_it_upwards_with_the_length_of_samples() -> None:
    short, long = (
        span({"calibration.seqlen": n, "calibration.nsamples": 4096 // n}) for n in (16, 1024)
    )
    assert long[1] / long[0] > short[1] / short[0]
