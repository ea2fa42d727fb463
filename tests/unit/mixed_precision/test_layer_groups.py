"""Layers that take one option together, what each may take, and how large that makes them."""

from __future__ import annotations

import math
from typing import Any

import pytest

from autoround.errors import RecipeError
from autoround.mixed_precision.layer_groups import (
    LayerGroup,
    layer_groups,
    ruled_layers,
    scored_head,
    scored_modules,
)
from autoround.model.skeleton import adopt_model
from autoround.planning.estimate import layer_bytes
from autoround.planning.plan import make_plan
from autoround.recipe.schema import Recipe
from autoround.types import Plan, Scheme

from ...runs import small
from ...tiny import KINDS, make_model
from ...zoo import make_model as make_family

W2, W4, W8 = (Scheme(bits, 32, True) for bits in (2, 4, 8))


def opened(
    kind: str = "llama", values: dict[str, object] | None = None
) -> tuple[Recipe, Any, Plan]:
    from autoround.device.registry import open_device

    recipe = small({"allocate.options": ["W2", "W4", "W8"], **(values or {})})
    skeleton = adopt_model(make_model(kind) if kind in KINDS else make_family(kind))
    runtime = open_device("cpu")
    return (
        recipe,
        skeleton,
        make_plan(recipe, skeleton, runtime=runtime, calibration="", model="tiny"),
    )


def groups(kind: str = "llama", values: dict[str, object] | None = None) -> list[LayerGroup]:
    return layer_groups(*opened(kind, values))


def names(found: list[LayerGroup], block: int = 0) -> list[set[str]]:
    own = [g for g in found if g.layers[0].block.endswith(f".{block}")]
    return [{layer.path.rpartition(".")[2] for layer in group.layers} for group in own]


def test_layers_that_engines_merge_take_one_option() -> None:
    merged = [{"q_proj", "k_proj", "v_proj"}, {"o_proj"}, {"gate_proj", "up_proj"}, {"down_proj"}]
    assert names(groups()) == merged
    assert names(groups(values={"allocate.fused": False})) == [
        {n} for n in ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    ]
    # By itself a format decides by what reads it.
    alone = groups(values={"output.format": "mlx", "allocate.options": ["W2", "W4"]})
    assert all(len(group.layers) == 1 for group in alone)


@pytest.mark.parametrize("fused", [True, False])
def test_experts_of_a_layer_take_one_option_in_any_case(fused: bool) -> None:
    found = groups("mixtral", {"allocate.fused": fused})
    assert {"gate_up_proj", "down_proj"} in names(found)
    name = next(g.name for g in found if len(g.layers) == 2 and g.layers[0].experts)
    assert name == "model.layers.0.mlp.experts"


def test_every_weight_that_is_quantized_is_in_one_group() -> None:
    recipe, skeleton, plan = opened("qwen2_moe")
    found = layer_groups(recipe, skeleton, plan)
    listed = [layer.name for group in found for layer in group.layers]
    assert sorted(listed) == sorted(x.name for block in plan.blocks for x in block.quantized)
    for group in found:
        assert group.weights == sum(math.prod(layer.shape) for layer in group.layers)


def test_sizes_are_bytes_of_the_files_in_each_option() -> None:
    recipe, skeleton, plan = opened(
        values={"allocate.options": ["W2", "W4", 16], "allocate.fused": True}
    )
    (group,) = [g for g in layer_groups(recipe, skeleton, plan) if len(g.layers) == 3][:1]
    assert group.options == (W2, W4, None)
    shapes = [layer.shape for layer in group.layers]
    for scheme, size in zip(group.options, group.sizes, strict=True):
        if scheme is None:
            assert size == sum(math.prod(shape) * 4 for shape in shapes)
        else:
            codes = sum(math.prod(shape) * scheme.bits // 8 for shape in shapes)
            per_group = 2 + scheme.bits / 8
            scales = sum(rows * (columns // 32) * per_group for rows, columns in shapes)
            assert size == codes + scales


def test_options_that_a_layer_cannot_take_are_none_of_its_own() -> None:
    """Blocks of 256 weights do not fit rows of 64 or 96."""
    values: dict[str, object] = {
        "output.format": "gguf:q4_0",
        "output.dtype": "auto",
        "allocate.options": ["q4_k", "q4_0", "q8_0"],
    }
    found = groups(values=values)
    assert found
    for group in found:
        assert group.options == (Scheme(4, 32, True), Scheme(8, 32, True))


def test_layers_that_are_kept_or_ruled_about_are_in_no_group() -> None:
    values: dict[str, object] = {
        "ignore": ["o_proj"],
        "layers": [{"match": "mlp.*", "blocks": 0, "bits": 8}],
    }
    recipe, skeleton, plan = opened(values=values)
    assert ruled_layers(recipe, skeleton, plan) == {
        f"model.layers.0.mlp.{name}_proj" for name in ("gate", "up", "down")
    }
    found = layer_groups(recipe, skeleton, plan)
    assert names(found, 0) == [{"q_proj", "k_proj", "v_proj"}]
    assert names(found, 1)[1:] == [{"gate_proj", "up_proj"}, {"down_proj"}]
    judged = [{m.name for m in own} for own in scored_modules(recipe, skeleton, plan)]
    assert {layer.name for group in found for layer in group.layers} == judged[0] | judged[1]
    assert ruled_layers(*opened()) == frozenset()


def test_layers_are_judged_one_by_one_and_experts_of_a_module_together() -> None:
    recipe, skeleton, plan = opened("mixtral", {"allocate.options": ["W2", "W4", 16]})
    first = scored_modules(recipe, skeleton, plan)[0]
    assert [(m.name, m.path, len(m.layers)) for m in first] == [
        *((f"model.layers.0.self_attn.{n}_proj", f"self_attn.{n}_proj", 1) for n in "qkvo"),
        ("model.layers.0.mlp.experts", "mlp.experts", 2),
    ]
    # Nothing is lost in 16 bit: that need not be judged.
    assert {m.options for m in first} == {(W2, W4)}


def test_the_head_takes_part_where_it_is_asked_to_with_bits_enough() -> None:
    assert scored_head(*opened()) is None
    recipe, skeleton, plan = opened(values={"allocate.lm_head": 4})
    head = scored_head(recipe, skeleton, plan)
    assert head is not None
    assert (head.name, head.options) == ("lm_head", (W4, W8))
    (group,) = [g for g in layer_groups(recipe, skeleton, plan) if g.name == "lm_head"]
    sizes = tuple(
        layer_bytes(head.layers[0].__class__("x", (128, 64), s), "auto_round:auto_gptq")
        for s in head.options
    )
    assert group.sizes == sizes


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_a_head_that_is_kept_takes_nothing_where_it_is_the_embeddings(kind: str) -> None:
    values: dict[str, object] = {"allocate.lm_head": 4, "allocate.options": ["W4", 16]}
    (group,) = [g for g in groups(kind, values) if g.name == "lm_head"]
    assert group.options == (W4, None)
    assert group.sizes[1] == (0 if kind == "gemma2" else 128 * 64 * 4)
    assert group.sizes[0] > 0


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"allocate.lm_head": 9}, "no option has 9 bits or more"),
        ({"allocate.lm_head": 4, "lm_head.bits": 8}, "both speak of the head; keep one"),
        (
            {
                "allocate.lm_head": 4,
                "output.format": "gguf:q4_0",
                "output.dtype": "auto",
                "allocate.options": ["q4_0", "q8_0"],
            },
            "gguf:q4_0 has no choice of bits for the head",
        ),
    ],
)
def test_a_head_without_a_choice_is_an_error(values: dict[str, object], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        scored_head(*opened(values=values))
