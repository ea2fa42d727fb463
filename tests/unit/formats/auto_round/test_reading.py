"""Configs of auto-round, of all its releases and modes, are read by what the files hold."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoround.errors import FormatError
from autoround.formats.auto_round.config import config
from autoround.formats.auto_round.reading import is_auto_round, packed_layers
from autoround.formats.parts import headers_of_parts
from autoround.formats.registry import layout_named
from autoround.types import LEGAL_BITS, PER_CHANNEL, PER_TENSOR, Scheme

from ....tiny_quantized import nearest
from .._plans import plan_of

V1, V2, AWQ = "auto_round:auto_gptq", "auto_round", "auto_round:auto_awq"
Q, UP, DOWN = (f"model.layers.0.{n}" for n in ("self_attn.q_proj", "mlp.up_proj", "mlp.down_proj"))
BASE: dict[str, Any] = {
    "quant_method": "auto-round",
    "packing_format": V1,
    "bits": 4,
    "group_size": 32,
    "sym": True,
    "data_type": "int",
}
W4, W8, W2 = Scheme(4, 32, True), Scheme(8, 32, True), Scheme(2, 64, False)

schemes = st.builds(
    Scheme,
    st.sampled_from(LEGAL_BITS),
    st.sampled_from((32, 128, PER_CHANNEL, PER_TENSOR)),
    st.booleans(),
)


def headers(layers: dict[str, Scheme | None], packing: str = V1) -> dict[str, Any]:
    """Return the headers of layers of 64 x 128, packed with their schemes or plain."""
    found: dict[str, Any] = {}
    for name, scheme in layers.items():
        # Both signs in every group, because version 1 holds no zero point of 0.
        weight = torch.linspace(-1.0, 1.0, 16).repeat(64, 8)
        if scheme is None:
            found[f"{name}.weight"] = ((64, 128), "float16")
            continue
        parts = layout_named(packing).to_tensors(nearest(weight, scheme))
        parts["scales"] = parts["scales"].half()
        found |= {f"{name}.{p}": header for p, header in headers_of_parts(parts).items()}
    return found


def read(keys: dict[str, Any], layers: dict[str, Scheme | None]) -> dict[str, Scheme]:
    shapes = dict.fromkeys(layers, (0, 0))
    found = packed_layers({**BASE, **keys}, shapes, headers(layers))
    return {name: layer.scheme for name, layer in found.items()}


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    blocks=st.lists(
        st.lists(st.none() | schemes, min_size=3, max_size=3), min_size=1, max_size=3
    ).filter(lambda blocks: any(scheme for block in blocks for scheme in block))
)
def test_readers_see_the_plan(blocks: list[list[Scheme | None]]) -> None:
    plan = plan_of(*blocks)
    layers = {layer.name: layer.scheme for block in plan.blocks for layer in block.layers}
    expected = {
        name: Scheme(scheme.bits, scheme.group_size or PER_CHANNEL, scheme.sym)
        for name, scheme in layers.items()
        if scheme is not None
    }
    packing = plan.outputs[0].packing
    files = headers(layers, packing)
    found = packed_layers(config(plan, plan.outputs[0]), dict.fromkeys(layers, (0, 0)), files)
    assert {name: layer.scheme for name, layer in found.items()} == expected
    assert {layer.packing for layer in found.values()} == {packing}


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"block_name_to_quantize": None},
        {"block_name_to_quantize": "model.layers"},
        {"block_name_to_quantize": "elsewhere"},
        {"block_name_to_quantize": ["model.layers", "visual.blocks"]},
        {"to_quant_block_names": [["model.layers.0", "model.layers.1"]]},
        {"block_name_to_quantize": "LlamaDecoderLayer"},
        {"extra_config": None},
    ],
)
def test_the_files_say_which_layers_are_quantized_whatever_blocks_are_listed(
    keys: dict[str, Any],
) -> None:
    assert read(keys, {Q: W4, UP: None, "lm_head": W4}) == {Q: W4, "lm_head": W4}


@pytest.mark.parametrize(
    ("key", "layer"),
    [
        (DOWN, DOWN),
        ("mlp.down_proj", DOWN),
        ("down_proj", DOWN),
        (".*down_proj", DOWN),
        (".*\\.mlp\\.down_proj.*", DOWN),
        ("layers.0.mlp", DOWN),
        ("down", DOWN),
        ("q_proj|down_proj", DOWN),
        (f"language_model.{DOWN}", f"language_model.{DOWN}"),
        ("lm_head", "lm_head"),
    ],
)
def test_keys_are_names_ends_of_names_and_regexes(key: str, layer: str) -> None:
    own = {"bits": 2, "group_size": 64, "sym": False}
    assert read({"extra_config": {key: own}}, {UP: W4, layer: W2}) == {UP: W4, layer: W2}


def test_a_name_goes_before_its_end_and_that_before_a_regex() -> None:
    extra = {".*": {"bits": 2}, "q_proj": {"bits": 8}, Q: {"sym": False}}
    layers = {Q: Scheme(4, 32, False), UP: Scheme(2, 32, True)}
    assert read({"extra_config": extra}, layers) == layers
    assert read({"extra_config": {**extra, Q: {}}}, {Q: W8}) == {Q: W8}


def test_the_shapes_decide_between_what_a_config_says() -> None:
    # Said by a regex of everything, and true of one layer only.
    extra = {".*_proj": {"bits": 8}, Q: {"bits": 16, "data_type": "float"}}
    assert read({"extra_config": extra}, {Q: W4, UP: W8}) == {Q: W4, UP: W8}
    # The name of another layer is no regex.
    extra = {"a.up": {"bits": 4, "sym": False}}
    layers = {"a.up": Scheme(4, 32, False), "a.up_proj": W4}
    assert read({"extra_config": extra}, layers) == layers


def test_what_fits_no_scheme_is_told_with_shapes_and_config() -> None:
    with pytest.raises(FormatError) as caught:
        read({"extra_config": {"up_proj": {"group_size": 64}}}, {UP: W8})
    said = str(caught.value)
    assert f"layer {UP}: " in said
    assert "W4 g64 sym (extra_config 'up_proj'), W4 g32 sym (for the whole model)" in said
    assert "qweight (32, 64), qzeros (4, 16), scales (4, 64)" in said


def test_a_layer_named_as_quantized_that_is_plain_is_told() -> None:
    extra = {UP: {"bits": 8}, DOWN: {"bits": 16}, "plain": {"data_type": "fp8", "bits": 8}}
    found = read({"extra_config": extra}, {UP: None, DOWN: None, Q: None, "plain": None})
    assert found == {UP: W8}


def test_a_model_kept_whole_may_name_what_is_not() -> None:
    whole = {"bits": 16, "extra_config": {UP: {"bits": 4}}}
    assert read(whole, {UP: W4, Q: None}) == {UP: W4}
    with pytest.raises(FormatError, match="gives it 16 bits"):
        read(whole, {Q: W4})


@pytest.mark.parametrize("word", ["auto-round", "intel/auto-round", "auto_round", "AutoRound"])
def test_its_name_has_several_spellings(word: str) -> None:
    assert is_auto_round({"quant_method": word})
    assert not is_auto_round({"quant_method": "gptq"})
    assert not is_auto_round({})


@pytest.mark.parametrize(
    ("keys", "packing"),
    [
        ({"packing_format": V1}, V1),
        ({"packing_format": "auto_round:gptq"}, V1),
        ({"packing_format": "auto"}, V1),
        ({"packing_format": "auto_round:gptqmodel", "backend": "auto"}, V2),
        ({"packing_format": "auto_round:awq"}, AWQ),
        ({"packing_format": V2, "backend": "auto_round:gptq:exllamav2"}, V2),
        ({"backend": "auto_round:gptq:exllamav2"}, V1),
        ({"backend": "autoround:exllamav2", "sym": False}, V2),
        ({"backend": "auto_round:triton", "sym": False}, V2),
        ({"backend": "auto_round:awq:gemm"}, AWQ),
        ({"backend": "auto"}, V1),
        ({"backend": "ipex"}, V1),
        ({}, V1),
    ],
)
def test_the_packing_goes_by_several_words(keys: dict[str, Any], packing: str) -> None:
    own = {**BASE, "packing_format": None, **keys}
    layers = {Q: Scheme(4, 32, own["sym"])}
    found = packed_layers(own, {Q: (64, 128)}, headers(layers, packing))
    assert found[Q].packing == packing


@pytest.mark.parametrize("value", [4, 4.0, "4", " 4 "])
def test_numbers_may_be_of_any_type(value: Any) -> None:
    keys = {"bits": value, "group_size": 32.0, "sym": "True", "act_bits": "16"}
    assert read(keys, {Q: W4}) == {Q: W4}
    assert read({"group_size": None, "act_bits": None}, {Q: Scheme(4, -1, True)}) == {
        Q: Scheme(4, -1, True)
    }


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"packing_format": "auto_round:marlin"}, "'auto_round:marlin'; legal: auto_round:"),
        ({"packing_format": "auto_round:llm_compressor"}, "packing_format is .*legal"),
        ({"packing_format": ["auto_round"]}, "packing_format is .*legal"),
        ({"packing_format": None, "sym": False}, "has no packing_format, which says how zero"),
        ({"data_type": "mx_fp"}, "only integer weights with 16-bit activations"),
        ({"act_bits": 8}, "only integer weights with 16-bit activations"),
        ({"act_bits": "many"}, "only integer weights with 16-bit activations"),
        ({"bits": None}, "bits of the model is None; legal"),
        ({"bits": "four"}, "bits of the model is 'four'; legal"),
        ({"bits": 4.5}, "bits of the model is 4.5; legal"),
        ({"bits": True}, "bits of the model is True; legal"),
        ({"bits": 1}, "bits of the model is 1; legal: 2, 3, 4, 5, 6, 7, 8"),
        ({"bits": 12}, "bits of the model is 12; legal"),
        ({"bits": -4}, "bits of the model is -4; legal"),
        ({"group_size": -2}, "group_size of the model is -2; legal"),
        ({"group_size": "many"}, "group_size of the model is 'many'; legal"),
        ({"sym": "maybe"}, "sym of the model is 'maybe', which is neither true nor false"),
        ({"extra_config": [Q]}, "extra_config is not a table"),
        ({"extra_config": {Q: 4}}, "extra_config is not a table"),
        ({"extra_config": {Q: {"bits": "two"}}}, r"bits of layer .*q_proj is 'two'"),
        ({"extra_config": {Q: {"group_size": -7}}}, r"group_size of layer .*q_proj is -7"),
        ({"extra_config": {"(": {"bits": 2}}}, r"'\(' is neither a layer nor a regex"),
    ],
)
def test_illegal_configs_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        read(keys, {Q: W4})
