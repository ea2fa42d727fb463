"""Facts about the layers of a plan, as serving engines meet them."""

from __future__ import annotations

import dataclasses

import pytest

from autoround.planning.serving.facts import format_facts
from autoround.types import BlockPlan, LayerPlan, Scheme

from ._engine_plans import PATH, W4, experts, facts, layer, plan_of

W8, G64 = Scheme(8, 128, True), Scheme(4, 64, True)
Q, K, V = (layer(f"self_attn.{x}_proj") for x in "qkv")


def test_a_layer_by_itself() -> None:
    (fact,) = facts("gptq", layer("self_attn.o_proj", shape=(64, 320))).layers
    assert (fact.name, fact.count) == (f"{PATH}.self_attn.o_proj", 1)
    assert (fact.inputs, fact.outputs, fact.scheme) == (320, 64, W4)
    assert not any((fact.experts, fact.head, fact.merged, fact.stacked, fact.renamed, fact.narrow))
    assert fact.of_most


def test_kept_layers_stand_by_themselves() -> None:
    output = facts("gptq", Q, layer("mlp.down_proj", None))
    assert [x.name for x in output.layers] == [Q.name]
    assert [(x.name, x.scheme) for x in output.kept] == [(f"{PATH}.mlp.down_proj", None)]
    assert not output.several_schemes
    assert facts("gptq", Q, layer("mlp.down_proj", W8)).several_schemes


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


def test_the_scheme_of_most_layers_counts_experts_one_by_one() -> None:
    output = facts("gptq", Q, K, V, experts("up", G64), layer("mlp.down_proj", None))
    assert [x.of_most for x in (*output.layers, *output.kept)] == [False] * 3 + [True, False]


@pytest.mark.parametrize(
    ("name", "shape", "size", "narrow"),
    [
        ("up", (4 * 64, 256), 32, False),
        ("up", (4 * 48, 256), 32, True),
        ("up", (4 * 48, 256), -1, False),
        ("up", (4 * 64, 192), 32, True),
        ("down", (4 * 192, 64), 32, True),
        ("down", (4 * 256, 48), 32, True),
        ("down", (4 * 256, 64), 32, False),
    ],
)
def test_widths_of_experts_that_marlin_does_not_take(
    name: str, shape: tuple[int, int], size: int, narrow: bool
) -> None:
    scheme = Scheme(4, size, True)
    (fact,) = facts("gptq", experts(name, scheme, shape=shape)).layers
    assert fact.narrow == narrow
    plain = layer("self_attn.q_proj", scheme, shape=shape)
    assert not facts("gptq", plain).layers[0].narrow


def test_experts_of_other_names_than_the_class_has() -> None:
    files = (f"{PATH}.block_sparse_moe.experts.{{}}.w2",)
    for layers, renamed in (
        (experts("down", files=files), True),
        (experts("down"), False),
        (layer("mlp.experts.0.down_proj"), False),
    ):
        (fact,) = facts("gptq", layers).layers
        assert (fact.renamed, fact.experts) == (renamed, True)
    assert [x.stacked for x in facts("gptq", Q, experts("up")).layers] == [False, True]


@pytest.mark.parametrize(
    ("name", "outputs", "bits", "cut"),
    [
        ("self_attn.k_proj", 120, 3, True),
        ("self_attn.k_proj", 120, 4, False),
        ("self_attn.o_proj", 120, 3, False),
        ("mlp.up_proj", 500, 4, True),
        ("mlp.up_proj", 512, 7, False),
        ("mlp.experts.1.w1", 100, 2, True),
    ],
)
def test_zero_points_that_end_inside_a_word(name: str, outputs: int, bits: int, cut: bool) -> None:
    one = layer(name, Scheme(bits, 32, False), shape=(outputs, 64))
    assert facts("pack-quantized", one).layers[0].cut_words == cut


def test_blocks_that_keep_other_layers_are_uneven() -> None:
    def uneven(*schemes: Scheme | None) -> bool:
        blocks = tuple(
            BlockPlan(
                i,
                f"h.{i}",
                tuple(
                    LayerPlan(f"h.{i}.{n}", (64, 64), s, block=f"h.{i}")
                    for n, s in zip("ab", schemes[2 * i : 2 * i + 2], strict=True)
                ),
            )
            for i in range(2)
        )
        plan = dataclasses.replace(plan_of("gptq", Q), blocks=blocks)
        return format_facts(plan, plan.outputs[0]).uneven

    assert not uneven(W4, W4, W4, W4)
    assert not uneven(W4, None, W4, None)
    assert not uneven(W4, W8, W8, W4)
    assert uneven(W4, None, W4, W4)
    assert uneven(W4, None, None, W4)
