"""Layers that serving engines merge."""

from __future__ import annotations

import pytest

from autoround.formats.merged_layers import describe_schemes, engine_name, merged_under
from autoround.types import LayerPlan, Scheme

PATH = "model.layers.0"


@pytest.mark.parametrize(
    ("name", "group", "merged"),
    [
        ("self_attn.k_proj", "self_attn.{q_proj,k_proj,v_proj}", "self_attn.qkv_proj"),
        ("mlp.up_proj", "mlp.{gate_proj,up_proj}", "mlp.gate_up_proj"),
        ("feed_forward.w3", "feed_forward.{w1,w3}", "feed_forward.gate_up_proj"),
        ("mlp.experts.7.w2", "mlp.experts.*", "mlp.experts"),
        ("mlp.experts.7.gate_proj", "mlp.experts.*", "mlp.experts"),
    ],
)
def test_merged_layers_share_a_name(name: str, group: str, merged: str) -> None:
    assert merged_under(f"{PATH}.{name}") == f"{PATH}.{group}"
    assert engine_name(f"{PATH}.{name}") == f"{PATH}.{merged}"


def test_others_are_not_merged() -> None:
    for name in ("self_attn.o_proj", "mlp.down_proj", "mlp.gate"):
        assert merged_under(f"{PATH}.{name}") == ""
        assert engine_name(f"{PATH}.{name}") == f"{PATH}.{name}"


def test_attentions_of_different_layers_are_not_one() -> None:
    assert merged_under("model.layers.0.a.q_proj") != merged_under("model.layers.1.a.q_proj")


def test_experts_alone_may_count() -> None:
    assert merged_under(f"{PATH}.self_attn.q_proj", experts_only=True) == ""
    assert merged_under(f"{PATH}.mlp.experts.0.w1", experts_only=True) == f"{PATH}.mlp.experts.*"


def test_schemes_are_told_once_each() -> None:
    w4, w8 = Scheme(4, 32, True), Scheme(8, 32, True)
    layers = [LayerPlan(f"{i}", (64, 64), scheme) for i, scheme in enumerate((w8, w4, None, w4))]
    assert describe_schemes(layers) == "16 bit and W4 g32 sym and W8 g32 sym"
