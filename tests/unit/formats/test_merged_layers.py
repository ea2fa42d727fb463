"""Layers that serving engines merge."""

from __future__ import annotations

from autoround.formats.merged_layers import disagreements, notes
from autoround.types import LayerPlan, Scheme

W4, W8 = Scheme(4, 32, True), Scheme(8, 32, True)


def layers(**schemes: Scheme | None) -> list[LayerPlan]:
    return [
        LayerPlan("model.layers.0." + name.replace("__", "."), (64, 64), scheme)
        for name, scheme in schemes.items()
    ]


def test_parts_that_agree_say_nothing() -> None:
    parts = layers(a__q_proj=W4, a__k_proj=W4, a__v_proj=W4, a__o_proj=W8, m__gate_proj=None)
    assert notes([*parts, *layers(m__up_proj=None, m__down_proj=W8)]) == []


def test_parts_that_differ_are_named() -> None:
    parts = layers(a__q_proj=W8, a__k_proj=W4, a__v_proj=W4, m__gate_proj=W4, m__up_proj=None)
    assert disagreements(parts) == [
        "model.layers.0.a.{q_proj,k_proj,v_proj}: W4 g32 sym and W8 g32 sym",
        "model.layers.0.m.{gate_proj,up_proj}: 16 bit and W4 g32 sym",
    ]
    (note,) = notes(parts)
    assert "a.{q_proj,k_proj,v_proj}: W4 g32 sym and W8 g32 sym and 1 more" in note


def test_attentions_of_different_layers_may_differ() -> None:
    other = [LayerPlan(f"model.layers.{i}.a.q_proj", (64, 64), s) for i, s in ((0, W4), (1, W8))]
    assert notes(other) == []


def test_experts_of_a_layer_are_one() -> None:
    parts = layers(m__experts__0__w1=W4, m__experts__1__w1=W8)
    assert disagreements(parts) == ["model.layers.0.m.experts.*: W4 g32 sym and W8 g32 sym"]
    assert disagreements(layers(m__experts__0__w1=W4, m__experts__1__w1=W4)) == []
