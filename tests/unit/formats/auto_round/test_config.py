"""The quantization config: what is written is what is read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoround._version import __version__
from autoround.errors import FormatError
from autoround.formats.auto_round.config import config, most_common, quantized_layers
from autoround.types import LEGAL_BITS, PER_CHANNEL, PER_TENSOR, BlockPlan, LayerPlan, Plan, Scheme

from ....tiny_quantized import make_plan

W4, W4_ASYM, W2 = Scheme(4, 128, True), Scheme(4, 128, False), Scheme(2, 32, True)
NAMES = ("attn.q", "attn.k", "mlp.up", "mlp.down")
SHAPE = (64, 64)

schemes = st.builds(
    Scheme,
    st.sampled_from(LEGAL_BITS),
    st.sampled_from((32, 128, PER_CHANNEL, PER_TENSOR)),
    st.booleans(),
)


def plan_of(*blocks: list[Scheme | None], prefix: str = "model.layers") -> Plan:
    """Make a plan from the schemes of every block's layers; None keeps a layer."""
    return make_plan(
        tuple(
            BlockPlan(
                i,
                f"{prefix}.{i}",
                tuple(
                    LayerPlan(f"{prefix}.{i}.{name}", SHAPE, scheme)
                    for name, scheme in zip(NAMES, block, strict=False)
                ),
            )
            for i, block in enumerate(blocks)
        )
    )


def on_disk(plan: Plan) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(json.dumps(config(plan, plan.outputs[0])))
    return read


def test_a_uniform_model_needs_no_exceptions() -> None:
    assert on_disk(plan_of([W4, W4], [W4, W4])) == {
        "quant_method": "auto-round",
        "packing_format": "auto_round:auto_gptq",
        "bits": 4,
        "group_size": 128,
        "sym": True,
        "data_type": "int",
        "block_name_to_quantize": "model.layers",
        "autoround_version": __version__,
    }


def test_kept_and_other_layers_are_exceptions() -> None:
    written = on_disk(plan_of([W4, W4, None], [W2, W4_ASYM, W4], prefix="a.h"))
    assert written["packing_format"] == "auto_round"
    assert (written["bits"], written["group_size"], written["sym"]) == (4, 128, True)
    assert written["extra_config"] == {
        "a.h.0.mlp.up": {"bits": 16, "data_type": "float"},
        "a.h.1.attn.q": {"bits": 2, "group_size": 32, "sym": True, "data_type": "int"},
        "a.h.1.attn.k": {"bits": 4, "group_size": 128, "sym": False, "data_type": "int"},
    }


def test_a_scale_of_the_tensor_is_written_as_one_of_each_channel() -> None:
    written = on_disk(plan_of([Scheme(8, PER_TENSOR, True)]))
    assert written["group_size"] == PER_CHANNEL


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    blocks=st.lists(
        st.lists(st.none() | schemes, min_size=len(NAMES), max_size=len(NAMES)),
        min_size=1,
        max_size=3,
    ).filter(lambda blocks: any(scheme for block in blocks for scheme in block))
)
def test_readers_see_the_plan(blocks: list[list[Scheme | None]]) -> None:
    plan = plan_of(*blocks)
    expected = {
        layer.name: Scheme(
            layer.scheme.bits, layer.scheme.group_size or PER_CHANNEL, layer.scheme.sym
        )
        for block in plan.blocks
        for layer in block.layers
        if layer.scheme is not None
    }
    names = {layer.name: layer.shape for block in plan.blocks for layer in block.layers}
    # Layers elsewhere are not in the plan, and not quantized.
    others = {"lm_head": SHAPE, "model.layers_of_another.0.attn.q": SHAPE, "layers.0.attn.q": SHAPE}
    assert quantized_layers(on_disk(plan), names | others) == expected


def test_most_common_is_the_first_among_equals() -> None:
    assert most_common([W2, W4, W4]) == W4
    assert most_common([W2, W4]) == W2


def base(**keys: Any) -> dict[str, Any]:
    return {**on_disk(plan_of([W4])), **keys}


def test_blocks_may_be_a_text_or_a_list() -> None:
    names = {"a.0.q": SHAPE, "b.c.0.q": SHAPE, "d.0.q": SHAPE}
    for blocks in ("a,b.c", "a, b.c", ["a", "b.c"]):
        found = quantized_layers(base(block_name_to_quantize=blocks), names)
        assert set(found) == {"a.0.q", "b.c.0.q"}


def test_a_layer_outside_the_blocks_may_be_named() -> None:
    written = base(extra_config={"lm_head": {"bits": 8, "group_size": 64, "sym": True}})
    assert quantized_layers(written, {"lm_head": SHAPE}) == {"lm_head": Scheme(8, 64, True)}


def test_an_exception_may_say_only_what_differs() -> None:
    written = base(extra_config={"model.layers.0.attn.q": {"bits": 2}})
    name = "model.layers.0.attn.q"
    assert quantized_layers(written, {name: SHAPE}) == {name: Scheme(2, 128, True)}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"quant_method": "gptq"}, "quant_method is 'gptq'; this reads 'auto-round' only"),
        ({"quant_method": None}, "quant_method is None"),
        ({"packing_format": "auto_round:marlin"}, "'auto_round:marlin'; legal: auto_round:"),
        ({"packing_format": None}, "packing_format is None; legal"),
        ({"packing_format": ["auto_round"]}, "packing_format is .*legal"),
        ({"data_type": "mx_fp"}, "only integer weights with 16-bit activations"),
        ({"act_bits": 8}, "only integer weights with 16-bit activations"),
        ({"act_bits": "many"}, "only integer weights with 16-bit activations"),
        ({"bits": None}, "bits of the model is None, not a number"),
        ({"bits": "4"}, "bits of the model is '4', not a number"),
        ({"bits": 4.0}, "bits of the model is 4.0, not a number"),
        ({"bits": 1}, "bits of the model is 1; legal: 2, 3, 4, 5, 6, 7, 8"),
        ({"bits": 12}, "bits of the model is 12; legal"),
        ({"bits": -4}, "bits of the model is -4; legal"),
        ({"group_size": None}, "group_size of the model is None"),
        ({"group_size": -2}, "group_size of the model is -2; legal"),
        ({"sym": "yes"}, "sym of the model is 'yes'"),
        ({"extra_config": ["model.layers.0.attn.q"]}, "extra_config is not a table"),
        ({"extra_config": {"model.layers.0.attn.q": 4}}, "extra_config is not a table"),
        (
            {"extra_config": {"model.layers.0.attn.q": {"bits": "2"}}},
            r"bits of layer model\.layers\.0\.attn\.q is '2'",
        ),
        (
            {"extra_config": {"model.layers.0.attn.q": {"group_size": -7}}},
            r"group_size of layer model\.layers\.0\.attn\.q is -7",
        ),
    ],
)
def test_illegal_configs_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        quantized_layers(base(**keys), {"model.layers.0.attn.q": SHAPE})


@pytest.mark.parametrize("blocks", [None, "", 5, [], [5], {}])
def test_odd_block_names_match_nothing(blocks: Any) -> None:
    names = {"model.layers.0.attn.q": SHAPE}
    assert quantized_layers(base(block_name_to_quantize=blocks), names) == {}
