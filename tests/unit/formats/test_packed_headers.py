"""Packed layers are found by headers, and what of a config does not hold is told."""

from __future__ import annotations

import pytest

from autoround.errors import FormatError
from autoround.formats.packed_headers import (
    PackedHeaders,
    owned_tensors,
    packed_names,
    plain_against_config,
)
from autoround.types import Scheme

GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": True}
HEADERS = {
    "a.qweight": ((12, 64), "int32"),
    "a.qzeros": ((3, 8), "int32"),
    "a.scales": ((3, 64), "float16"),
    "a.bias": ((64,), "float16"),
    "norm.weight": ((96,), "bfloat16"),
}


def test_a_packed_layer_reads_as_one_weight() -> None:
    found = PackedHeaders(HEADERS, GPTQ)
    assert {name: layer.scheme for name, layer in found.layers.items()} == {
        "a": Scheme(4, 32, True)
    }
    assert found.reads_as == {
        "a.weight": ((64, 96), "float32"),
        "a.bias": ((64,), "float16"),
        "norm.weight": ((96,), "bfloat16"),
    }
    assert {"a.qweight", "a.g_idx"} <= owned_tensors(found.layers)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"a.scales": ((3, 64), "int32")}, r"scales is torch.int32 \(3, 64\)"),
        ({"a.qzeros": ((4, 8), "int32")}, "do not fit a weight of 64 x 96"),
        ({"b.weight": ((2, 2), "float8_e4m3fn")}, "b.weight is torch.float8_e4m3fn: weights"),
        ({"b.weight_scale": ((2, 2), "float16")}, "b.weight_scale, which belongs to no packed"),
    ],
)
def test_what_does_not_fit_is_refused(
    changed: dict[str, tuple[tuple[int, ...], str]], said: str
) -> None:
    with pytest.raises(FormatError, match=said):
        PackedHeaders(HEADERS | changed, GPTQ)


def test_layers_that_may_be_packed_are_told_by_their_tensors() -> None:
    names = ("a.qweight", "b.weight", "c.d.weight_packed", "e.scales", "qweight")
    header = ((1, 1), "int32")
    assert set(packed_names(dict.fromkeys(names, header))) >= {"a", "c.d"}
    assert "b" not in packed_names({"b.weight": header})


AUTO_ROUND = {
    "quant_method": "auto-round",
    "packing_format": "auto_round",
    "bits": 4,
    "group_size": 32,
    "sym": False,
    "block_name_to_quantize": "blocks",
}


def test_a_layer_that_is_named_as_quantized_and_is_plain_is_told() -> None:
    extra = {"blocks.0.a": {"bits": 8}, "head": {"bits": 8}, "blocks.0.b": {"bits": 16}}
    names = ["head", "blocks.0.a", "blocks.0.b"]
    files = {f"{name}.weight": ((32, 96), "float32") for name in names}
    (note,) = plain_against_config({**AUTO_ROUND, "extra_config": extra}, files, names)
    assert note.startswith("layer head and 1 more: the quantization_config calls it")


def test_a_layer_among_quantized_ones_that_is_plain_is_an_exception() -> None:
    files = {"blocks.0.a.weight": ((32, 96), "float32"), "blocks.0.b": ((2,), "float32")}
    assert plain_against_config(AUTO_ROUND, files, ["blocks.0.a", "blocks.0.missing"]) == []
