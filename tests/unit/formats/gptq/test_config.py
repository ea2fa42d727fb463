"""The config of GPTQ checkpoints: one scheme for all, and rules for what differs."""

from __future__ import annotations

import re
from typing import Any

import pytest

from autoround.formats.gptq.config import config, modules_in_block
from autoround.types import OutputPlan, Plan, Scheme

from .._plans import plan_of

W4, W8, W3 = Scheme(4, 32, True), Scheme(8, 32, True), Scheme(3, -1, True)


def config_of(plan: Plan, packing: str = "gptq") -> dict[str, Any]:
    return config(plan, OutputPlan("auto_gptq", packing, "float16"))


def decided(found: dict[str, Any], name: str) -> dict[str, Any] | None:
    """Return what GPTQModel takes for a layer: None where it is kept."""
    for rule, values in found.get("dynamic", {}).items():
        if re.match(rule[2:], name):
            return None if rule.startswith("-:") else {**found, **values}
    return found


@pytest.mark.parametrize("packing", ["gptq", "gptq_v2"])
def test_a_uniform_model_needs_no_rules(packing: str) -> None:
    found = config_of(plan_of([W4, W4, W4]), packing)
    assert (found["bits"], found["group_size"], found["sym"]) == (4, 32, True)
    assert (found["quant_method"], found["checkpoint_format"]) == ("gptq", packing)
    assert "dynamic" not in found
    assert "modules_in_block_to_quantize" not in found
    assert (found["desc_act"], found["lm_head"]) == (False, False)
    assert found["block_name_to_quantize"] == "model.layers"


def test_rules_say_of_each_layer_what_the_plan_does_and_of_no_other() -> None:
    plan = plan_of([W4, W8, None], [W4, W4, W3], [W4, W4, W4])
    found = config_of(plan)
    for layer in plan.layers[:-1]:
        values = decided(found, layer.name)
        if layer.scheme is None:
            assert values is None
        else:
            assert values is not None
            assert (values["bits"], values["group_size"]) == (
                layer.scheme.bits,
                layer.scheme.group_size,
            )
    assert len(found["dynamic"]) == 3
    # A rule for block 1 is none for block 10, nor for a longer name.
    for name in ("model.layers.10.mlp.down_proj", "model.layers.1.mlp.down_proj.lora"):
        assert decided(found, name) == found


def test_a_quantized_head_is_told() -> None:
    found = config_of(plan_of([W4, W4, W4], head=W8))
    assert found["lm_head"] is True
    assert decided(found, "lm_head") == {**found, "bits": 8, "group_size": 32, "sym": True}


def test_blocks_that_keep_the_same_layers_have_them_in_one_list() -> None:
    assert modules_in_block(plan_of([W4, W4, W4])) is None
    kept = plan_of([W4, None, W4], [W8, None, W4])
    assert modules_in_block(kept) == [["self_attn.q_proj", "mlp.down_proj"]]
    assert modules_in_block(plan_of([W4, None, W4], [W4, W4, W4])) is None


def test_a_scale_of_the_tensor_is_one_of_each_channel() -> None:
    found = config_of(plan_of([Scheme(4, 0, True)] * 3))
    assert found["group_size"] == -1
