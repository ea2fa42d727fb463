"""Facts about the layers of a plan, as serving engines meet them."""

from __future__ import annotations

import dataclasses

from autoround.formats.gptq.format import FORMATS
from autoround.planning.engine_facts import MatchedNames, format_facts
from autoround.types import LayerPlan, Plan, Scheme

from ._engine_plans import PATH, W4, experts, facts, layer, plan_of

W8, G64 = Scheme(8, 128, True), Scheme(4, 64, True)
Q, K, V = (layer(f"self_attn.{x}_proj") for x in "qkv")
OTHERS = [layer("mlp.gate_proj"), layer("mlp.up_proj"), layer("mlp.down_proj"), layer("mlp.other")]


def test_a_layer_by_itself() -> None:
    (fact,) = facts("gptq", layer("self_attn.o_proj", shape=(64, 320))).layers
    assert (fact.name, fact.count) == (f"{PATH}.self_attn.o_proj", 1)
    assert (fact.inputs, fact.outputs, fact.scheme) == (320, 64, W4)
    assert not any((fact.experts, fact.head, fact.merged, fact.unnamed, fact.untargeted))


def test_kept_layers_are_no_facts() -> None:
    output = facts("gptq", Q, layer("mlp.down_proj", None))
    assert [x.name for x in output.layers] == [Q.name]
    assert output.schemes == {W4}


def test_outputs_of_merged_layers_are_counted_together() -> None:
    small = layer("self_attn.k_proj", shape=(32, 256)), layer("self_attn.v_proj", shape=(32, 256))
    assert [x.outputs for x in facts("gptq", Q, *small).layers] == [320] * 3


def test_stacked_experts_are_matrices_under_the_names_of_the_files() -> None:
    output = facts("gptq", Q, experts("up", W8), experts("down"))
    _, up, down = output.layers
    assert (up.name, up.count, up.outputs) == (f"{PATH}.mlp.experts.0.up_proj", 4, 256)
    assert up.merged == down.merged == f"{PATH}.mlp.experts.*, W4 g128 sym and W8 g128 sym"
    assert output.experts == {W4, W8}
    assert facts("gptq", Q, experts("up", None), experts("down")).experts == {W4, None}


def test_the_head_is_told_from_layers_of_towers() -> None:
    outside = (LayerPlan("lm_head", (512, 256), W4), LayerPlan("tower.0.proj", (512, 256), W4))
    plan = dataclasses.replace(plan_of("gptq", Q), kept=outside)
    assert [x.head for x in format_facts(plan, plan.outputs[0]).layers] == [False, True, False]


def _attention_in_groups_of_64() -> Plan:
    attention = [dataclasses.replace(x, scheme=G64) for x in (Q, K, V)]
    return plan_of("gptq", *attention, *OTHERS)


def test_a_rule_for_the_merged_layer_is_looked_for_in_the_config() -> None:
    plan = _attention_in_groups_of_64()
    named = [x.unnamed for x in format_facts(plan, plan.outputs[0]).layers]
    assert named == [True] * 3 + [False] * 4


def test_a_rule_for_the_merged_layer_is_seen_in_the_config() -> None:
    config = FORMATS[0].config(_attention_in_groups_of_64(), plan_of("gptq", Q).outputs[0])
    rules = [rule.removeprefix("+:") for rule in config["dynamic"]]
    assert f"{PATH}.self_attn.q_proj" in MatchedNames(rules)
    assert f"{PATH}.self_attn.qkv_proj" not in MatchedNames(rules)
    assert f"{PATH}.self_attn.qkv_proj" in MatchedNames([*rules, r".*\.qkv_proj"])
    assert f"{PATH}xself_attn.q_proj" not in MatchedNames(rules)


def test_kept_layers_are_looked_for_by_the_merged_name() -> None:
    kept = layer("mlp.gate_proj", None), layer("mlp.up_proj", None), layer("mlp.down_proj", None)
    names = tuple(x.name for x in kept[:2])
    assert facts("gptq", Q, *kept).kept_unnamed == names
    assert facts("awq", Q, *kept).kept_unnamed == names
    assert facts("awq", Q, K, V).kept_unnamed == ()


def test_targets_are_names_and_regexes() -> None:
    mixed = facts("pack-quantized", Q, K, V, layer("self_attn.o_proj", G64))
    assert not any(x.untargeted for x in mixed.layers)
    assert all(x.untargeted for x in facts("pack-quantized", Q).layers)
    assert not any(x.untargeted for x in facts("gptq", Q).layers)
    stacked = facts("pack-quantized", Q, experts("up"), layer("self_attn.o_proj", W8))
    assert not any(x.untargeted for x in stacked.layers)
