from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from autoround.device.process import use_threads
from autoround.device.protocol import Runtime, Speed
from autoround.device.registry import open_device
from autoround.errors import ModelError, RecipeError
from autoround.model.skeleton import adopt_model, open_model
from autoround.planning.hyperparameters import needs_data, settle
from autoround.planning.layer_scheme import compile_patterns, matches
from autoround.planning.plan import make_plan
from autoround.settings import MachineSettings
from autoround.types import LayerPlan, OutputPlan, Plan, Scheme

from ...runs import small
from ...tiny import make_model

Q0 = "model.layers.0.self_attn.q_proj"


def plan_of(model: Any, values: dict[str, object] | None = None) -> Plan:
    skeleton = open_model(model) if isinstance(model, Path) else adopt_model(model)
    return make_plan(
        small(values),
        skeleton,
        runtime=open_device("cpu"),
        calibration="some text",
        model="tiny",
    )


def layers_of(plan: Plan) -> dict[str, LayerPlan]:
    return {x.name: x for block in plan.blocks for x in block.layers}


def kept(plan: Plan) -> dict[str, str]:
    return {x.name: x.reason for x in layers_of(plan).values() if x.scheme is None}


@pytest.mark.parametrize(
    "pattern",
    [
        Q0,
        "model.layers.0.self_attn.q_*",
        "q_proj",
        "self_attn.q_proj",
        "[qk]_proj",
        "*q_proj",
        "re:q_proj$",
        r"re:layers\.[0-3]\.self",
        "model.*",
    ],
)
def test_a_pattern_names_a_layer(pattern: str) -> None:
    assert matches(pattern, Q0)
    assert compile_patterns(["other", pattern])(Q0)


@pytest.mark.parametrize(
    "pattern",
    ["proj", "model.layers.0", "model.layers.1.*", "Q_PROJ", "re:^q_proj", "_proj", "re:k_proj"],
)
def test_a_pattern_does_not_name_a_layer(pattern: str) -> None:
    assert not matches(pattern, Q0)
    assert not compile_patterns([pattern, "other"])(Q0)


def test_every_matrix_gets_a_scheme_or_a_reason() -> None:
    plan = plan_of(make_model("llama"))
    assert [block.name for block in plan.blocks] == ["model.layers.0", "model.layers.1"]
    assert [block.index for block in plan.blocks] == [0, 1]
    layers = layers_of(plan)
    assert len(layers) == 14
    assert all(x.scheme == Scheme(4, 32, True) and not x.reason for x in layers.values())
    assert layers["model.layers.1.mlp.down_proj"].shape == (64, 96)
    assert [(x.name, x.scheme, x.reason) for x in plan.kept] == [
        ("lm_head", None, "outside the decoder blocks")
    ]
    assert (plan.model, plan.architecture) == ("tiny", "LlamaForCausalLM")
    assert (plan.calibration, plan.device, plan.compute_dtype) == ("some text", "cpu", "float32")
    assert plan.outputs == (OutputPlan("auto_round", "auto_round:auto_gptq", "float32"),)
    assert plan.recipe == small().to_dict()
    # 2 blocks of 7 matrices and 2 norms; embeddings, norm and head.
    assert plan.tensors == 2 * 9 + 3


def test_an_asymmetric_plan_stores_zero_points_as_they_are() -> None:
    asym = {"scheme.sym": False}
    plan = plan_of(make_model("llama"), asym)
    assert plan.outputs[0].packing == "auto_round:auto_awq"
    # Groups that do not divide a width have no place in AWQ's layout, which would cost the layer.
    uneven = plan_of(make_model("llama"), {**asym, "scheme.group_size": 64})
    assert uneven.outputs[0].packing == "auto_round"
    assert (
        plan_of(make_model("llama"), {**asym, "scheme.bits": 3}).outputs[0].packing == "auto_round"
    )


def test_conv1d_is_planned_the_way_it_multiplies() -> None:
    layer = layers_of(plan_of(make_model("gpt2")))["transformer.h.0.attn.c_attn"]
    assert (layer.shape, layer.transposed, layer.bias) == ((192, 64), True, True)


def test_ignored_layers_are_kept_and_say_so() -> None:
    plan = plan_of(make_model("llama"), {"ignore": ["down_proj", f"{Q0}"]})
    assert kept(plan) == {
        "model.layers.0.mlp.down_proj": "ignored by the recipe ('down_proj')",
        "model.layers.1.mlp.down_proj": "ignored by the recipe ('down_proj')",
        Q0: f"ignored by the recipe ({Q0!r})",
    }


def test_a_pattern_may_name_a_layer_outside_the_blocks() -> None:
    plan = plan_of(make_model("llama"), {"ignore": ["lm_head"]})
    assert not kept(plan)
    assert [x.name for x in plan.kept] == ["lm_head"]


def test_patterns_that_match_nothing_are_all_listed_with_the_closest_name() -> None:
    with pytest.raises(RecipeError) as caught:
        plan_of(make_model("llama"), {"ignore": ["down_prjo", "o_proj", "re:experts", "lm_hed"]})
    assert str(caught.value).splitlines() == [
        "ignore: 'down_prjo' matches no layer of this model; did you mean 'down_proj'?",
        "ignore: 're:experts' matches no layer of this model",
        "ignore: 'lm_hed' matches no layer of this model; did you mean 'lm_head'?",
    ]


def test_structure_gives_reasons_too() -> None:
    plan = plan_of(make_model("qwen2_moe"))
    reasons = kept(plan)
    assert "model.layers.0.mlp.experts.gate_up_proj" not in reasons
    assert reasons["model.layers.0.mlp.gate"] == "router of a mixture of experts"
    gate = reasons["model.layers.0.mlp.shared_expert_gate"]
    assert gate == "a gate with one output"
    reasons = kept(plan_of(make_model("qwen2_moe"), {"ignore": ["re:experts"]}))
    asked = "ignored by the recipe ('re:experts')"
    assert reasons["model.layers.0.mlp.experts.gate_up_proj"] == asked


def test_a_shape_that_cannot_be_packed_is_kept() -> None:
    model = make_model("llama")
    block = model.model.layers[0]
    block.mlp.up_proj = torch.nn.Linear(64, 80)
    block.mlp.down_proj = torch.nn.Linear(80, 64)
    reasons = kept(plan_of(model))
    assert reasons == {
        "model.layers.0.mlp.up_proj": "its output width 80 is not a multiple of 32, "
        "which packing needs",
        "model.layers.0.mlp.down_proj": "its input width 80 is not a multiple of 32, "
        "which packing needs",
    }


def test_nothing_left_to_quantize() -> None:
    with pytest.raises(ModelError) as caught:
        plan_of(make_model("llama"), {"ignore": ["model.*"]})
    assert str(caught.value) == (
        "nothing to quantize in tiny: every layer of its blocks is kept "
        "(ignored by the recipe ('model.*'))"
    )


def test_a_group_size_that_divides_no_width() -> None:
    with pytest.raises(ModelError) as caught:
        plan_of(make_model("llama"), {"scheme.group_size": 128})
    assert str(caught.value) == (
        "group size 128 divides the input width of no layer (widths: 64, 96); use 32 or 16 "
        "or -1 (one group per channel)"
    )
    for size in (32, 16, -1):
        plan_of(make_model("llama"), {"scheme.group_size": size})


def test_a_group_size_that_divides_some_widths_is_noted() -> None:
    plan = plan_of(make_model("llama"), {"scheme.group_size": 64})
    assert plan.notes == (
        "auto_round: group size 64 does not divide input widths 96: the last group of such a row "
        "is shorter",
    )
    ignoring = plan_of(make_model("llama"), {"scheme.group_size": 64, "ignore": ["down_proj"]})
    assert ignoring.notes == ()
    dense = plan_of(make_model("llama"), {"scheme.group_size": 64, "output.format": "fake"})
    assert dense.notes == ()


@pytest.mark.parametrize("size", [0, -1, 32])
def test_sizes_that_always_fit_are_not_noted(size: int) -> None:
    assert plan_of(make_model("llama"), {"scheme.group_size": size}).notes == ()


def test_a_float32_model_is_written_as_bfloat16_and_that_is_noted() -> None:
    plan = plan_of(make_model("llama"), {"output.dtype": "auto"})
    assert plan.dtype == "bfloat16"
    (note,) = plan.notes
    assert note.startswith("auto_round: kept tensors are float32 in the model, written as bfloat16")
    assert "output.dtype" in note


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_16_bit_model_keeps_its_dtype(dtype: torch.dtype) -> None:
    plan = plan_of(make_model("llama").to(dtype), {"output.dtype": "auto"})
    assert plan.dtype == str(dtype).removeprefix("torch.")
    assert plan.notes == ()


def test_the_dtype_of_most_tensors_counts() -> None:
    model = make_model("llama").to(torch.float16)
    model.model.norm.to(torch.float32)
    assert plan_of(model, {"output.dtype": "auto"}).dtype == "float16"


@pytest.mark.parametrize("wish", ["float16", "bfloat16", "float32"])
def test_an_output_dtype_that_was_asked_is_given(wish: str) -> None:
    plan = plan_of(make_model("llama").half(), {"output.dtype": wish})
    assert plan.dtype == wish
    assert len(plan.notes) == (wish != "float16")
    for note in plan.notes:
        assert f"kept tensors are float16 in the model, written as {wish} as asked" in note


def test_tensors_that_the_class_does_not_know_are_noted(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    source = checkpoint("llama")
    folder = tmp_path / "model"
    folder.mkdir()
    tensors = load_file(source / "model.safetensors")
    tensors["model.layers.2.mtp.weight"] = torch.ones(3)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_bytes((source / "config.json").read_bytes())
    plan = plan_of(folder)
    assert plan.notes == (
        "1 tensors that the model class does not know, such as model.layers.2.mtp.weight, "
        "are copied unchanged",
    )
    assert plan.tensors == 22


@pytest.mark.parametrize(
    ("iters", "init", "needed"),
    [(0, "minmax", False), (0, "search", True), (1, "minmax", True), (1, "search", True)],
)
def test_only_plain_rounding_needs_no_data(iters: int, init: str, needed: bool) -> None:
    assert needs_data(small({"tuning.iters": iters, "tuning.init_scale": init})) is needed


class Fast16(Runtime):
    name, device, own_memory = "fast", torch.device("cpu"), False

    def speeds(self) -> tuple[Speed, ...]:
        return (Speed(torch.bfloat16, 2.0), Speed(torch.float32, 1.0))

    def compiles_from(self) -> float:
        return math.inf

    def computing(self) -> AbstractContextManager[object]:
        return nullcontext()


@pytest.mark.parametrize(
    ("asked", "settled"),
    [("auto", "bfloat16"), ("float32", "float32"), ("float16", "float16")],
)
def test_the_compute_dtype_is_the_fastest_unless_one_is_asked(asked: str, settled: str) -> None:
    recipe = small({"tuning.compute_dtype": asked})
    assert settle(recipe, Fast16(), blocks=()).compute_dtype == settled


def test_dtype_and_threads_of_an_interrupted_run_are_taken_over() -> None:
    recipe = small({"tuning.compute_dtype": "auto"})
    interrupted = MachineSettings("float32", 7)
    settled = settle(recipe, Fast16(), blocks=(), interrupted=interrupted)
    assert (settled.compute_dtype, settled.threads) == ("float32", 7)
    recipe = small({"tuning.compute_dtype": "float16", "tuning.threads": 3})
    settled = settle(recipe, Fast16(), blocks=(), interrupted=interrupted)
    assert (settled.compute_dtype, settled.threads) == ("float16", 3)


class TwoThreads(Fast16):
    def computing(self) -> AbstractContextManager[object]:
        return use_threads(2)


def test_threads_are_those_that_the_device_sets_unless_a_number_is_asked() -> None:
    assert settle(small(), TwoThreads(), blocks=()).threads == 2
    assert settle(small({"tuning.threads": 5}), TwoThreads(), blocks=()).threads == 5
