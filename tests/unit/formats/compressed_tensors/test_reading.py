"""Configs of compressed-tensors are read by what the files hold."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from autoround.errors import FormatError
from autoround.formats.compressed_tensors.layout import PACK_QUANTIZED
from autoround.formats.compressed_tensors.reading import packed_layers
from autoround.formats.parts import headers_of_parts
from autoround.types import LEGAL_BITS, PER_CHANNEL, Scheme

from ....tiny_quantized import nearest

W4, W8, W4_ASYM = Scheme(4, 32, True), Scheme(8, 32, True), Scheme(4, 32, False)
CHANNEL = Scheme(8, -1, True)
Q, K, UP = "layers.0.attn.q_proj", "layers.0.attn.k_proj", "layers.0.mlp.up_proj"


def group(scheme: Scheme, *targets: str, **keys: Any) -> dict[str, Any]:
    """Return a group as the library writes it."""
    weights = {
        "num_bits": scheme.bits,
        "type": "int",
        "symmetric": scheme.sym,
        "strategy": "group" if scheme.group_size > 0 else "channel",
        "group_size": scheme.group_size if scheme.group_size > 0 else None,
    }
    return {"targets": list(targets), "weights": weights, **keys}


def config(*groups: dict[str, Any], **keys: Any) -> dict[str, Any]:
    named = {f"group_{index}": one for index, one in enumerate(groups)}
    return {"format": "pack-quantized", "config_groups": named, **keys}


def headers(layers: dict[str, Scheme | None]) -> dict[str, Any]:
    """Return the headers of layers of 64 x 128, packed or plain."""
    found: dict[str, Any] = {}
    for name, scheme in layers.items():
        if scheme is None:
            found[f"{name}.weight"] = ((64, 128), "float16")
            continue
        parts = PACK_QUANTIZED.to_tensors(nearest(torch.zeros(64, 128), scheme))
        parts["weight_scale"] = parts["weight_scale"].half()
        found |= {f"{name}.{p}": header for p, header in headers_of_parts(parts).items()}
    return found


def read(own: dict[str, Any], layers: dict[str, Scheme | None]) -> dict[str, Scheme]:
    found = packed_layers(own, dict.fromkeys(layers, (0, 0)), headers(layers))
    return {name: layer.scheme for name, layer in found.items()}


def test_a_name_comes_before_its_end_a_regex_and_a_class() -> None:
    own = config(
        group(W8, "Linear"),
        group(CHANNEL, r"re:.*_proj$"),
        group(W4, "q_proj"),
        group(W4_ASYM, Q),
    )
    names = {f"{name}.weight_packed" for name in (Q, K, UP)}
    found = packed_layers(
        own, {Q: (0, 0), K: (0, 0), "lm_head": (0, 0)}, {*names, "lm_head.weight"}
    )
    assert {n: layer.scheme for n, layer in found.items()} == {Q: W4_ASYM, K: CHANNEL}
    found = packed_layers(own, {f"1.{Q}": (0, 0)}, {f"1.{Q}.weight_packed"})
    assert found[f"1.{Q}"].scheme == W4_ASYM


def test_the_shapes_decide_between_groups() -> None:
    own = config(group(W8, "Linear"), group(W4, "re:.*"), group(CHANNEL, "ColumnParallelLinear"))
    layers: dict[str, Scheme | None] = {Q: W8, K: W4, UP: CHANNEL, "lm_head": None}
    assert read(own, layers) == {Q: W8, K: W4, UP: CHANNEL}


@pytest.mark.parametrize(
    "keys",
    [
        {"format": None},
        {"format": "mixed-precision"},
        {"ignore": ["lm_head", "re:.*up_proj"]},
        {"ignore": None},
        {"kv_cache_scheme": {"num_bits": 8, "type": "float"}},
        {"sparsity_config": {}},
        {"sparsity_config": {"format": "dense", "global_sparsity": 0.1}},
        {"transform_config": {}},
    ],
)
def test_what_says_nothing_of_packed_layers_is_no_hindrance(keys: dict[str, Any]) -> None:
    own = config(group(W4, "Linear", format="pack-quantized"), **keys)
    assert read(own, {UP: W4, "lm_head": None}) == {UP: W4}


def test_a_layer_named_as_quantized_that_is_plain_is_told() -> None:
    own = config(group(W8, Q, K), group(W4, "Linear"), ignore=[K])
    assert read(own, {Q: None, K: None, UP: None}) == {Q: W8}


def test_numbers_may_be_of_any_type() -> None:
    own = config(group(W4_ASYM, "Linear"))
    own["config_groups"]["group_0"]["weights"] |= {
        "num_bits": 4.0,
        "group_size": "32",
        "symmetric": "false",
        "type": None,
        "strategy": None,
    }
    assert read(own, {UP: W4_ASYM}) == {UP: W4_ASYM}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "int-quantized"}, "format 'int-quantized' cannot be read"),
        ({"format": "nvfp4-pack-quantized"}, "format 'nvfp4-pack-quantized' cannot be read"),
        ({"format": "marlin-24"}, "format 'marlin-24' cannot be read"),
        ({"sparsity_config": {"format": "sparse-24-bitmask"}}, "'sparse-24-bitmask' cannot be"),
        ({"config_groups": []}, "not a table of groups"),
        ({"config_groups": {"g": group(W4, "b")}}, "no config group targets it"),
        ({"config_groups": {"g": group(W4, "re:(")}}, "is not a regex"),
        ({"config_groups": {"g": group(W4, "Linear", weights={"type": "float"})}}, "of integer"),
        (
            {"config_groups": {"g": group(W4, "Linear", format="float-quantized")}},
            "its group g is in format 'float-quantized', which cannot be read",
        ),
        (
            {"config_groups": {"g": group(W4, "Linear", input_activations={"num_bits": 8})}},
            "only 16-bit activations",
        ),
        (
            {"config_groups": {"g": group(W4, "Linear", weights={"strategy": "block"})}},
            "bits of layer a is None",
        ),
        (
            {
                "config_groups": {
                    "g": group(W4, "Linear", weights={"num_bits": 4, "strategy": "block"})
                }
            },
            "scales by 'block' cannot be read; legal: group, channel",
        ),
        ({"config_groups": {"g": group(W8, "Linear")}}, "W8 g32 sym .g by 'Linear'.*files hold"),
    ],
)
def test_what_cannot_be_read_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        read({**config(group(W4, "Linear")), **change}, {"a": W4})


def test_an_activation_order_is_refused() -> None:
    tensors = {"a.weight_packed", "a.weight_g_idx"}
    with pytest.raises(FormatError, match="actorder"):
        packed_layers(config(group(W4, "Linear")), {"a": (0, 0)}, tensors)


@pytest.mark.parametrize("bits", LEGAL_BITS)
@pytest.mark.parametrize("size", [32, PER_CHANNEL])
@pytest.mark.parametrize("sym", [True, False])
def test_every_width_is_read(bits: int, size: int, sym: bool) -> None:
    scheme = Scheme(bits, size, sym)
    assert read(config(group(scheme, "Linear")), {Q: scheme}) == {Q: scheme}
