"""Multiplications of a run, counted from shapes."""

from __future__ import annotations

import math

import pytest

from autoround.device.registry import open_device
from autoround.model.skeleton import adopt_model
from autoround.planning.plan import make_plan
from autoround.planning.work import plan_work

from ...runs import small
from ...tiny import make_model


def test_a_token_is_multiplied_by_the_experts_it_is_routed_to() -> None:
    skeleton = adopt_model(make_model("qwen2_moe"))
    runtime = open_device("cpu")
    plan = make_plan(small(), skeleton, runtime=runtime, calibration="", model="")
    all_experts, one = (plan_work(plan, experts_per_token=n).blocks for n in (0, 1))
    layers = [layer for block in plan.blocks for layer in block.layers]
    every = sum(math.prod(layer.shape) for layer in layers)
    met = sum(math.prod(layer.shape) // max(1, layer.experts) for layer in layers)
    assert one / all_experts == pytest.approx(met / every)
