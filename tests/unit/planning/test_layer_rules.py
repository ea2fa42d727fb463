from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from autoround.device.registry import open_device
from autoround.errors import AutoRoundError, FormatError, ModelError, RecipeError
from autoround.model.skeleton import adopt_model
from autoround.planning.estimate import block_bits, make_estimate
from autoround.planning.plan import make_plan
from autoround.recipe.load import load_recipe
from autoround.types import LEGAL_BITS, Plan, Scheme

from ... import zoo
from ...runs import skeleton_on_meta, small
from ...tiny import make_model

W4, W8 = Scheme(4, 32, True), Scheme(8, 32, True)


def plan_of(rules: list[Any], *, kind: str = "llama", **values: object) -> Plan:
    model = zoo.make_model(kind) if kind in zoo.FAMILIES else make_model(kind)
    return make_plan(
        small({"layers": rules, **{k.replace("__", "."): v for k, v in values.items()}}),
        adopt_model(model),
        runtime=open_device("cpu"),
        calibration="some text",
        model="tiny",
    )


def schemes(plan: Plan) -> dict[str, Scheme | None]:
    return {x.name.removeprefix("model.layers."): x.scheme for x in plan.layers}


def test_the_last_rule_that_fits_decides() -> None:
    plan = plan_of(
        [
            {"kind": "attention", "bits": 8, "sym": False},
            {"match": "o_proj", "bits": 3},
            {"match": "v_proj", "blocks": "last 1", "bits": 16},
            {"match": "model.layers.0.mlp.up_proj", "group_size": 16},
        ]
    )
    found = schemes(plan)
    assert found["0.self_attn.q_proj"] == found["1.self_attn.k_proj"] == Scheme(8, 32, False)
    # What it leaves out is the scheme's, not that of the rule before it.
    assert found["0.self_attn.o_proj"] == Scheme(3, 32, True)
    assert found["0.self_attn.v_proj"] == Scheme(8, 32, False)
    assert found["1.self_attn.v_proj"] is None
    assert found["0.mlp.up_proj"] == Scheme(4, 16, True)
    assert found["1.mlp.up_proj"] == found["0.mlp.down_proj"] == W4
    assert found["lm_head"] is None
    reasons = {x.name: x.reason for x in plan.layers if x.scheme is None}
    assert reasons["model.layers.1.self_attn.v_proj"] == (
        "16 bits by layers[2] of the recipe ('v_proj', last 1)"
    )


def test_the_plan_says_what_each_rule_came_to() -> None:
    plan = plan_of(
        [
            {"kind": "mlp", "bits": 3},
            {"kind": "attention", "bits": 8},
            {"match": ["q_proj", "k_proj"], "bits": 2},
            {"match": "re:[qk]_proj$", "bits": 8, "group_size": -1},
        ],
        ignore=["model.layers.0.self_attn.o_proj"],
    )
    by = [(r.index, r.text, r.matched, r.decided, dict(r.schemes)) for r in plan.rules]
    assert by == [
        (0, "mlp", 6, 6, {"W3 g32 sym": 6}),
        (1, "attention", 8, 4, {"16 bit": 1, "W8 g32 sym": 3}),
        (2, "'q_proj' and 1 more", 4, 0, {}),
        (3, "'re:[qk]_proj$'", 4, 4, {"W8 channel sym": 4}),
    ]
    assert plan.rules[0].weights == 6 * 64 * 96


def test_the_average_counts_scales_and_layers_kept() -> None:
    skeleton = adopt_model(make_model("llama"))
    rules = [{"kind": "attention", "bits": 16}, {"match": "up_proj", "bits": 8}]
    recipe = small({"layers": rules, "output.dtype": "bfloat16"})
    runtime = open_device("cpu")
    plan = make_plan(recipe, skeleton, runtime=runtime, calibration="", model="tiny")
    estimate = make_estimate(plan, skeleton, runtime=runtime)
    attention = 2 * 64 * 64 + 2 * 64 * 32
    each = 64 * 96
    wanted = (attention * 16 + each * (8.75 + 4.625 + 4.625)) / (attention + 3 * each)
    assert estimate.block_bits == pytest.approx(wanted)
    assert estimate.bits_per_weight == pytest.approx((8.75 + 4.625 + 4.625) / 3)


SHAPES = {
    "Llama 3 8B": (4096, 14336, 32, 32, 8),
    "Qwen 3 8B": (4096, 12288, 36, 32, 8),
    "SmolLM2 135M": (576, 1536, 30, 9, 3),
}


@pytest.mark.parametrize("name", SHAPES)
def test_recipes_that_promise_an_average_keep_it(name: str) -> None:
    hidden, inner, blocks, heads, shared = SHAPES[name]
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=blocks,
        num_attention_heads=heads,
        num_key_value_heads=shared,
        vocab_size=128,
        tie_word_embeddings=False,
    )
    with torch.device("meta"):
        skeleton = skeleton_on_meta(LlamaForCausalLM(config).to(torch.bfloat16))
    for recipe, promised in (("mixed-2.5bit", 2.5), ("mixed-3.5bit", 3.5)):
        plan = make_plan(
            load_recipe(recipe), skeleton, runtime=open_device("cpu"), calibration="", model="x"
        )
        assert block_bits(plan) == pytest.approx(promised, abs=0.07)


def test_a_run_of_words_about_nothing_is_left_out() -> None:
    plan = plan_of([{"kind": "embeddings", "bits": 16}, {"kind": "mlp", "bits": 8}])
    assert [one.index for one in plan.rules] == [1]


def test_experts_and_the_rest_of_a_layer() -> None:
    found = schemes(
        plan_of(
            [{"kind": "experts", "bits": 4}, {"match": "down_proj", "kind": "experts", "bits": 3}],
            kind="qwen2_moe",
            scheme__bits=8,
        )
    )
    assert found["0.mlp.experts.gate_up_proj"] == W4
    assert found["0.mlp.experts.down_proj"] == Scheme(3, 32, True)
    assert found["0.self_attn.q_proj"] == found["0.mlp.shared_expert.up_proj"] == W8


@pytest.mark.parametrize("rule", [{"kind": "lm_head"}, {"match": "lm_head"}])
def test_a_rule_about_the_head_does_what_the_section_does(rule: dict[str, Any]) -> None:
    by_rule = plan_of([{**rule, "bits": 8, "group_size": 16}])
    by_section = plan_of([], lm_head__bits=8, lm_head__group_size=16)
    assert by_rule.kept == by_section.kept
    assert by_rule.notes == by_section.notes
    assert schemes(by_rule)["lm_head"] == Scheme(8, 16, True)
    # Both may say the same, and neither is meant by a glob.
    assert plan_of([{**rule, "bits": 8}], lm_head__bits=8).kept != by_rule.kept
    assert schemes(plan_of([{"match": "*", "bits": 8}]))["lm_head"] is None
    with pytest.raises(RecipeError, match=r"layers\[0\]: it makes the output head W8.*remove one"):
        plan_of([{**rule, "bits": 8, "group_size": 16}], lm_head__bits=8)


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        (
            [{"match": "q_porj", "bits": 8}],
            "'q_porj' matches no layer of this model; did you mean 'q_proj'?",
        ),
        ([{"match": ["q_proj", "w1"], "bits": 8}], "'w1' matches no layer of this model"),
        (
            [{"match": "q_proj", "kind": "mlp", "blocks": 1, "bits": 8}],
            "'q_proj' matches no layer of kind mlp and blocks 1; 2 blocks",
        ),
        ([{"kind": "experts", "bits": 8}], "no layer of this model is of kind experts; name"),
        ([{"blocks": "2-9", "bits": 8}], "blocks 2-9 are none of this model, which has blocks 0"),
        ([{"match": "lm_*", "bits": 8}], "'lm_*' matches only layers outside the decoder blocks"),
        (
            [{"match": "model.embed_tokens", "bits": 8}],
            "'model.embed_tokens' matches only layers outside the decoder blocks, which stay",
        ),
        ([{"kind": "mlp", "type": "q4_k"}], "type is for GGUF files, and auto_round is none"),
    ],
)
def test_a_rule_that_does_nothing_is_an_error(rules: list[Any], words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        plan_of([{"kind": "mlp", "bits": 3}, *rules])
    assert str(caught.value).startswith(f"layers[1]: {words}")


def test_all_such_errors_come_at_once() -> None:
    with pytest.raises(RecipeError) as caught:
        plan_of([{"match": "a", "bits": 8}, {"match": "b", "bits": 8}])
    assert len(str(caught.value).splitlines()) == 2


def test_a_rule_whose_layers_must_all_stay_is_an_error() -> None:
    with pytest.raises(RecipeError, match=r"layers\[0\]: all layers of this rule stay .*router"):
        plan_of([{"match": "mlp.gate", "bits": 8}], kind="qwen2_moe")
    # It is no error that the recipe itself keeps, and none to keep what stays anyway.
    plan_of([{"match": "mlp.gate", "bits": 16}], kind="qwen2_moe")
    with pytest.raises(RecipeError, match=r"layers\[0\]: all layers .*ignored by the recipe"):
        plan_of([{"match": "q_proj", "bits": 8}], ignore=["q_proj"])


@pytest.mark.parametrize(
    ("rules", "values", "error", "words"),
    [
        (
            [{"kind": "mlp", "bits": 3}],
            {"output__format": "auto_awq"},
            FormatError,
            r"format auto_awq cannot hold W3 g32 sym of layers\[0\]: it holds 4 bits only",
        ),
        (
            [{"kind": "mlp", "group_size": 64}],
            {"output__format": "auto_awq"},
            FormatError,
            "auto_awq cannot hold W4 g32 sym and W4 g64 sym in one model: .*formats that can: auto",
        ),
        (
            [{"kind": "mlp", "bits": 7}],
            {"output__format": "mlx"},
            FormatError,
            r"mlx cannot hold W7 g32 sym of layers\[0\]: .*formats that can: .*compressed-tensors",
        ),
        (
            [{"kind": "mlp", "bits": 5}],
            {"output__format": "auto_gptq"},
            FormatError,
            r"auto_gptq cannot hold W5 g32 sym of layers\[0\]",
        ),
        (
            [{"kind": "lm_head", "bits": 4}],
            {"output__format": "auto_awq"},
            FormatError,
            r"layers\[0\], W4 g32 sym, in format auto_awq: its programs",
        ),
        (
            [{"kind": "mlp", "group_size": 40}],
            {},
            ModelError,
            r"layers\[0\]: group size 40 divides the input width of no layer \(widths: 64, 96\)",
        ),
        (
            [{"kind": "mlp", "bits": 3}],
            {"output__format": "gguf:q4_0"},
            RecipeError,
            r"layers\[0\]: gguf:q4_0 takes types, not bits: set type, such as type: q3_k",
        ),
    ],
)
def test_what_formats_cannot_hold_is_refused_by_rule(
    rules: list[Any], values: dict[str, Any], error: type[AutoRoundError], words: str
) -> None:
    with pytest.raises(error, match=words):
        plan_of(rules, **values)


def test_the_scheme_need_not_be_legal_where_rules_leave_it_nothing() -> None:
    rules = [{"kind": "mlp", "bits": 4}, {"kind": "attention", "bits": 8}]
    plan = plan_of(rules, scheme__bits=5, output__format="auto_gptq")
    assert {x.scheme for b in plan.blocks for x in b.layers} == {W4, W8}


@pytest.mark.parametrize("bits", LEGAL_BITS)
def test_compressed_tensors_takes_rules_of_every_width(bits: int) -> None:
    rules = [{"kind": "mlp", "bits": bits, "sym": False}, {"kind": "lm_head", "bits": bits}]
    plan = plan_of(rules, output__format="compressed-tensors")
    asked = {x.name: x.scheme for x in plan.layers if "mlp" in x.name or x.name == "lm_head"}
    assert {scheme.bits for scheme in asked.values() if scheme is not None} == {bits}
    before = {x.before for x in plan.serving if x.engine == "compressed-tensors"}
    assert ("0.18.0" in before) is bool(32 % bits)


def test_one_asymmetric_rule_decides_the_packing() -> None:
    assert plan_of([{"kind": "mlp", "bits": 8}]).outputs[0].packing == "auto_round:auto_gptq"
    plan = plan_of([{"kind": "mlp", "sym": False}])
    assert plan.outputs[0].packing == "auto_round:auto_awq"
    plan = plan_of([{"kind": "mlp", "sym": False}, {"kind": "attention", "bits": 8}])
    assert plan.outputs[0].packing == "auto_round"
    # The head decides with the rest.
    plan = plan_of([{"kind": "mlp", "sym": False}, {"kind": "lm_head", "bits": 8}])
    assert plan.outputs[0].packing == "auto_round"
    kept = plan_of([{"kind": "mlp", "sym": False}, {"kind": "attention", "bits": 16}])
    assert kept.outputs[0].packing == "auto_round:auto_awq"


def test_layers_that_engines_merge_are_told() -> None:
    def rules(layer_rule: dict[str, Any]) -> set[str]:
        return {finding.rule for finding in plan_of([layer_rule]).serving}

    assert "merged-differ" in rules({"match": "v_proj", "bits": 8})
    assert "merged-differ" not in rules({"kind": "attention", "bits": 8})
