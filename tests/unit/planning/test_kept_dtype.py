"""The dtype of unquantized tensors, and those that stay in float32."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from autoround.device.registry import open_device
from autoround.model.skeleton import adopt_model
from autoround.planning.kept_dtype import dtype_notes, kept_dtype
from autoround.planning.plan import make_plan
from autoround.types import OutputPlan, Plan

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
        (
            torch.float32,
            "auto",
            "bfloat16",
            "float32 in the model, written as bfloat16 (set output",
        ),
        (torch.bfloat16, "float16", "float16", "written as float16 as asked"),
    ],
)
def test_16_bit_stays_and_float32_becomes_bfloat16(
    dtype: torch.dtype, asked: str, written: str, noted: str
) -> None:
    recipe, skeleton = small({"output.dtype": asked}), adopt_model(model_in(dtype))
    assert kept_dtype(recipe, skeleton) == written
    outputs = [OutputPlan("auto_round", "auto_round", written)]
    notes = dtype_notes(recipe, skeleton, outputs)
    assert [noted in note for note in notes] == ([True] if noted else [])


def test_each_format_is_named_with_what_is_written_in_it() -> None:
    formats = "auto_round,auto_gptq,auto_awq,gguf:q8_0"
    model = model_in(torch.float32)
    plan = planned(model, **{"output.format": formats.rpartition(",")[0]})
    assert [note for note in plan.notes if "kept tensors" in note] == [
        "auto_round: kept tensors are float32 in the model, written as bfloat16 "
        "(set output.dtype to change)",
        "auto_gptq, auto_awq: kept tensors are float32 in the model, written as float16 "
        "(set output.dtype to change)",
    ]
    # Files with types of their own tell them tensor by tensor.
    gguf = [OutputPlan("gguf:q8_0", "gguf:q8_0", "float32")]
    assert dtype_notes(small({}), adopt_model(model_in(torch.bfloat16)), gguf) == []


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


@pytest.mark.parametrize(
    ("dtype", "formats", "run"),
    [
        (torch.float32, "auto_awq", "float16"),
        (torch.float32, "auto_round", "bfloat16"),
        (torch.float32, "gguf:q8_0", "float32"),
        (torch.float32, "auto_round,auto_awq", "float32"),
        (torch.bfloat16, "auto_awq", "bfloat16"),
        (torch.float16, "auto_round,auto_awq", "float16"),
    ],
)
def test_wider_tensors_are_not_rounded_twice(dtype: torch.dtype, formats: str, run: str) -> None:
    assert planned(model_in(dtype), **{"output.format": formats}).dtype == run
