"""Layers that serving engines merge."""

from __future__ import annotations

import pytest

from autoround.formats.merged_layers import (
    describe_schemes,
    engine_names,
    experts_modules,
    merged_under,
)
from autoround.types import LayerPlan, Scheme

PATH = "model.layers.0"


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("self_attn.k_proj", "self_attn.{q_proj,k_proj,v_proj}"),
        ("mlp.up_proj", "mlp.{gate_proj,up_proj}"),
        ("feed_forward.w3", "feed_forward.{w1,w3}"),
        ("mlp.experts.7.w2", "mlp.experts.*"),
        ("mlp.experts.7.gate_proj", "mlp.experts.*"),
    ],
)
def test_merged_layers_share_a_name(name: str, group: str) -> None:
    assert merged_under(f"{PATH}.{name}") == f"{PATH}.{group}"


def test_others_are_not_merged() -> None:
    for name in ("self_attn.o_proj", "mlp.down_proj", "mlp.gate"):
        assert merged_under(f"{PATH}.{name}") == ""


def test_attentions_of_different_layers_are_not_one() -> None:
    assert merged_under("model.layers.0.a.q_proj") != merged_under("model.layers.1.a.q_proj")


def test_experts_alone_may_count() -> None:
    assert merged_under(f"{PATH}.self_attn.q_proj", experts_only=True) == ""
    assert merged_under(f"{PATH}.mlp.experts.0.w1", experts_only=True) == f"{PATH}.mlp.experts.*"


def test_schemes_are_told_once_each() -> None:
    w4, w8 = Scheme(4, 32, True), Scheme(8, 32, True)
    layers = [LayerPlan(f"{i}", (64, 64), scheme) for i, scheme in enumerate((w8, w4, None, w4))]
    assert describe_schemes(layers) == "16 bit and W4 g32 sym and W8 g32 sym"


W4, W8 = Scheme(4, 32, True), Scheme(8, 32, True)


def test_engines_names_have_the_scheme_of_parts_that_agree() -> None:
    found = engine_names(
        {
            "l.0.a.q_proj": W4,
            "l.0.a.k_proj": W4,
            "l.0.a.v_proj": W4,
            "l.0.a.o_proj": W4,
            "l.0.m.gate_proj": W8,
            "l.0.m.up_proj": W4,
            "l.1.a.q_a_proj": None,
            "l.1.a.kv_a_proj_with_mqa": None,
            "l.1.m.experts.0.w1": W8,
            "l.1.m.experts.1.w1": W8,
            "l.2.m.experts.0.w1": W8,
            "l.2.m.experts.1.w1": W4,
            "l.3.m.experts.gate_up_proj": None,
        }
    )
    assert found == {
        "l.0.a.qkv_proj": W4,
        "l.1.a.fused_qkv_a_proj": None,
        "l.1.a.fused_qkv_a_proj_with_mqa": None,
        "l.1.m.experts": W8,
        "l.3.m.experts": None,
    }


def test_a_name_that_files_have_is_theirs() -> None:
    assert engine_names({"a.q_proj": W4, "a.k_proj": W4, "a.qkv_proj": W8}) == {}
    # An attention may have no v of its own; one part alone is merged with nothing.
    assert engine_names({"a.q_proj": W4, "a.k_proj": W4}) == {"a.qkv_proj": W4}
    assert engine_names({"a.q_proj": W4}) == {}


def test_more_parts_are_merged_in_some_architectures() -> None:
    linear = dict.fromkeys(("a.q_proj", "a.k_proj", "a.v_proj", "a.g_proj"), W4)
    assert engine_names(linear) == {"a.qkv_proj": W4, "a.in_proj_qkvg": W4}
    assert engine_names({**linear, "a.g_proj": W8}) == {"a.qkv_proj": W4}


def test_experts_that_are_alike_are_named_as_the_class_does_too() -> None:
    def stacked(down: Scheme | None) -> list[LayerPlan]:
        files = "model.layers.0.block_sparse_moe.experts.{}."
        return [
            LayerPlan(
                f"model.layers.0.mlp.experts.{own}", (128, 64), scheme, "", experts=2, files=f
            )
            for own, scheme, f in (
                ("gate_up_proj", W4, (files + "w1", files + "w3")),
                ("down_proj", down, (files + "w2",)),
            )
        ]

    assert experts_modules(stacked(W4)) == {
        "model.layers.0.mlp.experts": W4,
        "model.layers.0.block_sparse_moe.experts": W4,
    }
    assert experts_modules(stacked(None)) == {}
    assert experts_modules([LayerPlan("model.layers.0.a.q_proj", (64, 64), W4)]) == {}
