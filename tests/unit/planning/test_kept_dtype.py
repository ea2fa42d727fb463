"""The dtype of unquantized tensors, and those that stay in float32."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from autoround.device.registry import open_device
from autoround.model.skeleton import adopt_model
from autoround.planning.kept_dtype import kept_dtype
from autoround.planning.plan import make_plan
from autoround.types import Plan

from ...runs import NEAREST, small
from ...tiny import make_model


def model_in(dtype: torch.dtype, **wide: torch.dtype) -> Any:
    model = make_model("llama").to(dtype)
    for name, other in wide.items():
        for path, module in model.named_modules():
            if path.endswith(name):
                module.to(other)
    return model


def planned(model: Any, **values: object) -> Plan:
    return make_plan(
        small({**NEAREST, "output.dtype": "auto", **values}),
        adopt_model(model),
        runtime=open_device("cpu"),
        calibration="",
        model="tiny",
    )


@pytest.mark.parametrize(
    ("dtype", "asked", "written", "noted"),
    [
        (torch.bfloat16, "auto", "bfloat16", ""),
        (torch.float16, "auto", "float16", ""),
        (torch.float32, "auto", "bfloat16", "written as bfloat16 (set output.dtype"),
        (torch.bfloat16, "float16", "float16", "written as float16 as asked"),
    ],
)
def test_16_bit_stays_and_float32_becomes_bfloat16(
    dtype: torch.dtype, asked: str, written: str, noted: str
) -> None:
    recipe = small({"output.dtype": asked})
    name, notes = kept_dtype(recipe, adopt_model(model_in(dtype)))
    assert name == written
    assert [noted in note for note in notes] == ([True] if noted else [])


def test_what_is_wider_is_named_and_a_quantized_layer_is_not() -> None:
    model = model_in(torch.bfloat16, input_layernorm=torch.float32, o_proj=torch.float32)
    plan = planned(model)
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in plan.stored_in_float32} == {
        "input_layernorm"
    }
    # A norm in float32 would hand float32 on to the next layer.
    assert plan.computed_in_float32 == ()
    kept = planned(model, ignore=["o_proj"])
    assert any("o_proj" in name for name in kept.stored_in_float32)


def test_nothing_is_wide_in_a_model_of_one_dtype() -> None:
    for dtype in (torch.bfloat16, torch.float32):
        assert planned(model_in(dtype)).stored_in_float32 == ()
    assert planned(model_in(torch.float32), **{"output.dtype": "float32"}).float32 == frozenset()
