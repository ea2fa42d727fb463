"""Configs of GPTQ checkpoints are read by what the files hold."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from autoround.errors import FormatError
from autoround.formats.gptq.reading import packed_layers
from autoround.formats.parts import headers_of_parts
from autoround.formats.registry import layout_named
from autoround.types import Scheme

from ....tiny_quantized import nearest

W4, W8 = Scheme(4, 32, True), Scheme(8, 32, True)
BASE: dict[str, Any] = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": True}


def headers(layers: dict[str, Scheme], packing: str = "gptq") -> dict[str, Any]:
    found: dict[str, Any] = {"lm_head.weight": ((64, 128), "float16")}
    for name, scheme in layers.items():
        layer = nearest(torch.linspace(-1, 1, 16).repeat(64, 8), scheme)
        parts = layout_named(packing).to_tensors(layer)
        parts["scales"] = parts["scales"].half()
        found |= {f"{name}.{p}": header for p, header in headers_of_parts(parts).items()}
    return found


def read(keys: dict[str, Any], layers: dict[str, Scheme], packing: str = "gptq") -> Any:
    shapes = dict.fromkeys([*layers, "lm_head"], (0, 0))
    found = packed_layers({**BASE, **keys}, shapes, headers(layers, packing))
    assert {layer.packing for layer in found.values()} <= {packing}
    return {name: layer.scheme for name, layer in found.items()}


@pytest.mark.parametrize(
    "keys",
    [
        {"desc_act": True, "static_groups": "false"},
        {"desc_act": None, "checkpoint_format": "GPTQ"},
        {"bits": "4", "group_size": 32.0, "sym": "True"},
        {"is_marlin_format": False, "lm_head": False, "model_file_base_name": "model"},
        {"dynamic": None, "modules_in_block_to_quantize": [["a"]]},
        {"dynamic": {"-:a": {}}},
        {"dynamic": {"+:a": {"bits": 8}}},  # which its tensors belie
    ],
)
def test_the_tensors_of_a_layer_say_what_it_is(keys: dict[str, Any]) -> None:
    assert read(keys, {"a": W4}) == {"a": W4}


def test_a_rule_and_the_model_are_both_offered() -> None:
    rules = {"+:.*": {"bits": 8}}
    assert read({"dynamic": rules}, {"a": W8, "b": W4}) == {"a": W8, "b": W4}
    with pytest.raises(FormatError, match=r"it says W8 g32 sym .dynamic rule .*, W4 g32 sym"):
        read({"dynamic": rules}, {"a": Scheme(2, 32, True)})


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"is_marlin_format": "True"}, "checkpoint_format 'marlin' cannot be read"),
        ({"checkpoint_format": "Marlin"}, "checkpoint_format 'marlin' cannot be read"),
        ({"desc_act": "perhaps"}, "desc_act of the model is 'perhaps'"),
        ({"bits": None}, "bits of layer a is None"),
    ],
)
def test_what_cannot_be_read_is_refused(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(FormatError, match=words):
        read(keys, {"a": W4})


def test_an_order_that_is_not_in_the_files_is_refused() -> None:
    bare = "auto_round:auto_gptq"
    with pytest.raises(FormatError, match="desc_act says .* its g_idx, .* is missing"):
        read({"desc_act": True}, {"a": W4}, bare)
    # With one group a row there is nothing to put in order.
    channel = Scheme(4, -1, True)
    found = read({"desc_act": True, "group_size": None}, {"a": channel}, bare)
    assert found == {"a": channel}
