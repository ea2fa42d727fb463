"""The config of AWQ checkpoints has one scheme, and names what is kept."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from autoround.formats.awq.config import config, symmetric
from autoround.types import BlockPlan, LayerPlan, Scheme

from .._plans import plan_of


@pytest.mark.parametrize("sym", [True, False])
@pytest.mark.parametrize(("size", "key"), [(64, 64), (-1, -1), (0, -1)])
def test_the_scheme_is_in_the_words_of_awq(sym: bool, size: int, key: int) -> None:
    found = config(plan_of([Scheme(4, size, sym)] * 3))
    assert (found["quant_method"], found["version"]) == ("awq", "gemm")
    # Engines run files without zero points slowly, and ours always have them.
    assert (found["bits"], found["group_size"], found["zero_point"]) == (4, key, True)
    assert symmetric(found) is sym
    assert found["modules_to_not_convert"] == ["lm_head"]
    assert "dynamic" not in found


def test_kept_layers_are_named_by_their_whole_names() -> None:
    scheme = Scheme(4, 32, False)
    found = config(plan_of([scheme, None, scheme], [scheme, scheme, scheme]))
    kept = "model.layers.0.mlp.up_proj"
    assert found["modules_to_not_convert"] == [kept, "lm_head"]
    (rule,) = found["dynamic"]
    assert rule.startswith("-:")
    assert re.match(rule[2:], kept)
    assert not re.match(rule[2:], "model.layers.0.mlp.up_proj2")


def test_files_of_others_are_symmetric_where_they_have_no_zero_points() -> None:
    assert symmetric({"zero_point": False})
    assert not symmetric({"zero_point": True, "meta": None})
    assert not symmetric({})


def test_kept_layers_are_named_as_engines_merge_them_too() -> None:
    scheme = Scheme(4, 32, False)
    names = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.experts.0.up_proj")
    layers = tuple(LayerPlan(f"model.layers.0.{name}", (64, 128), None) for name in names)
    down = LayerPlan("model.layers.0.mlp.down_proj", (64, 128), scheme)
    block = BlockPlan(0, "model.layers.0", (*layers, down))
    found = config(replace(plan_of([scheme] * 3), blocks=(block,)))
    assert "model.layers.0.self_attn.qkv_proj" in found["modules_to_not_convert"]
    assert "model.layers.0.mlp.experts" in found["modules_to_not_convert"]
    # vLLM looks for these names within those of its layers.
    assert not any(name in down.name for name in found["modules_to_not_convert"])
