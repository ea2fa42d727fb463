"""Rules name layers as every program does, and none of a tower's."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from autoround.formats.layer_patterns import (
    has_head_name,
    kept_parts,
    layer_patterns,
    quantized_heads,
)
from autoround.types import LayerPlan, Plan, Scheme

from ._plans import plan_of

W4 = Scheme(4, 32, True)
TOWER = "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj"
OUTSIDE = (TOWER, "multi_modal_projector.linear_1", "language_model.lm_head")
#: What programs call the first layer of the decoder: files, transformers, vLLM, others.
DECODER = (
    "language_model.model.layers.0.self_attn.q_proj",
    "model.language_model.layers.0.self_attn.q_proj",
    "llm.model.layers.0.self_attn.q_proj",
    "model.layers.0.self_attn.q_proj",
)


def with_towers(scheme: Scheme | None = None) -> Plan:
    """Return a plan whose files and class differ in their prefixes, with a tower."""
    plan = plan_of([W4] * 3)
    (block,) = plan.blocks
    name = "model.language_model.layers.0"
    layers = tuple(
        LayerPlan(
            f"{name}.{path}",
            (64, 128),
            W4,
            files=(f"language_model.model.layers.0.{path}",),
            block=name,
        )
        for path in ("self_attn.q_proj", "mlp.up_proj")
    )
    kept = tuple(
        LayerPlan(f"model.{path}", (64, 128), scheme if path == TOWER else None, files=(path,))
        for path in OUTSIDE[:2]
    )
    head = LayerPlan("lm_head", (64, 128), None, files=(OUTSIDE[2],))
    return replace(plan, blocks=(replace(block, name=name, layers=layers),), kept=(*kept, head))


def test_a_model_of_text_has_whole_names() -> None:
    patterns = layer_patterns(plan_of([W4] * 3))
    assert patterns.lists == ("model.layers",)
    assert not patterns.towers
    name = "model.layers.0.self_attn.q_proj"
    assert patterns.one(name) == r"^model\.layers\.0\.self_attn\.q_proj$"
    for other in (name + "c", "X" + name, "x." + name, name.replace(".0.", "x0.")):
        assert not re.match(patterns.one(name), other)


def test_a_module_may_be_meant_with_all_in_it() -> None:
    experts = layer_patterns(plan_of([W4] * 3)).one("model.layers.1.mlp.experts", with_inside=True)
    for name in ("model.layers.1.mlp.experts", "model.layers.1.mlp.experts.3.up_proj"):
        assert re.match(experts, name)
    for name in ("model.layers.1.mlp.experts_bias", "model.layers.11.mlp.experts.3.up_proj"):
        assert not re.match(experts, name)


def test_a_model_with_towers_has_names_of_any_prefix() -> None:
    patterns = layer_patterns(with_towers())
    assert patterns.towers == {"vision_tower"}
    assert patterns.parts == {"vision_tower", "multi_modal_projector", "lm_head"}
    rules = {patterns.one(name) for name in DECODER[:2]}
    # Files and class have one and the same rule.
    (rule,) = rules
    assert all(re.match(rule, name) for name in DECODER)
    for name in (TOWER, f"model.{TOWER}", DECODER[0] + "x", DECODER[0].replace(".0.", ".10.")):
        assert not re.match(rule, name)


@pytest.mark.parametrize("name", [TOWER, f"model.{TOWER}"])
def test_a_layer_of_a_tower_is_itself_only(name: str) -> None:
    rule = layer_patterns(with_towers()).one(name)
    assert re.match(rule, TOWER)
    assert re.match(rule, f"thinker.{TOWER}")
    assert not any(re.match(rule, other) for other in DECODER)


def test_parts_are_kept_as_a_whole_or_not() -> None:
    plan = with_towers()
    patterns = layer_patterns(plan)
    assert kept_parts(patterns, plan.kept) == ["vision_tower", "multi_modal_projector", "lm_head"]
    assert re.match(patterns.whole("vision_tower"), f"model.{TOWER}")
    assert not any(re.match(patterns.whole("vision_tower"), name) for name in DECODER)
    assert kept_parts(patterns, with_towers(W4).kept) == ["multi_modal_projector", "lm_head"]


def test_a_quantized_tower_is_no_head() -> None:
    plan = with_towers(W4)
    assert quantized_heads(layer_patterns(plan), plan.kept) == []
    headed = plan_of([W4] * 3, head=W4)
    assert quantized_heads(layer_patterns(headed), headed.kept) == ["lm_head"]
    assert has_head_name("language_model.lm_head")
    assert not has_head_name("score")
