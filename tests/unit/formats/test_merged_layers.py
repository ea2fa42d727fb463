"""Layers that serving engines merge."""

from __future__ import annotations

from autoround.formats.merged_layers import disagreements, engine_names, experts_modules, notes
from autoround.types import LayerPlan, Scheme

W4, W8 = Scheme(4, 32, True), Scheme(8, 32, True)


def layers(**schemes: Scheme | None) -> list[LayerPlan]:
    return [
        LayerPlan("model.layers.0." + name.replace("__", "."), (64, 64), scheme)
        for name, scheme in schemes.items()
    ]


def test_parts_that_agree_say_nothing() -> None:
    parts = layers(a__q_proj=W4, a__k_proj=W4, a__v_proj=W4, a__o_proj=W8, m__gate_proj=None)
    assert notes([*parts, *layers(m__up_proj=None, m__down_proj=W8)], ["auto_round"]) == []


def test_parts_that_differ_are_named() -> None:
    parts = layers(a__q_proj=W8, a__k_proj=W4, a__v_proj=W4, m__gate_proj=W4, m__up_proj=None)
    assert disagreements(parts) == [
        "model.layers.0.a.{q_proj,k_proj,v_proj}: W4 g32 sym and W8 g32 sym",
        "model.layers.0.m.{gate_proj,up_proj}: 16 bit and W4 g32 sym",
    ]
    (note,) = notes(parts, ["auto_round", "auto_gptq"])
    assert note.startswith("auto_round, auto_gptq: vLLM and SGLang merge")
    # Plain weights of differing grids are one matrix like any other.
    assert notes(parts, []) == []
    assert "a.{q_proj,k_proj,v_proj}: W4 g32 sym and W8 g32 sym and 1 more" in note


def test_attentions_of_different_layers_may_differ() -> None:
    other = [LayerPlan(f"model.layers.{i}.a.q_proj", (64, 64), s) for i, s in ((0, W4), (1, W8))]
    assert notes(other, ["auto_round"]) == []


def test_experts_of_a_layer_are_one() -> None:
    parts = layers(m__experts__0__w1=W4, m__experts__1__w1=W8)
    assert disagreements(parts) == ["model.layers.0.m.experts.*: W4 g32 sym and W8 g32 sym"]
    assert disagreements(layers(m__experts__0__w1=W4, m__experts__1__w1=W4)) == []


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
    assert experts_modules(layers(a__q_proj=W4)) == {}
