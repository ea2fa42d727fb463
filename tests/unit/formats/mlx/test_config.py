"""The config of MLX: one scheme, and by name what differs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from autoround.errors import FormatError
from autoround.formats.mlx.config import config, is_mlx, quantized_layers
from autoround.types import LayerPlan, Scheme

from .._plans import plan_of

W4, W8 = Scheme(4, 32, True), Scheme(8, 64, False)
Q, UP, DOWN = (f"model.layers.0.{n}" for n in ("self_attn.q_proj", "mlp.up_proj", "mlp.down_proj"))


def test_layers_that_differ_stand_in_it_by_name() -> None:
    assert config(plan_of([W4, W8, None], [W4, W4, W4])) == {
        "bits": 4,
        "group_size": 32,
        "mode": "affine",
        UP: {"bits": 8, "group_size": 64},
        DOWN: False,
    }
    # The head is quantized only where it is named.
    assert config(plan_of([W4, W4, W4], head=W4))["lm_head"] == {"bits": 4, "group_size": 32}
    assert "lm_head" not in config(plan_of([W4, W4, W4]))


def test_experts_that_differ_stand_under_the_names_of_mlx_lm_too() -> None:
    plan = plan_of([W4, W4, W4])
    block = plan.blocks[0]
    files = (f"{block.name}.moe.experts.{{}}.w2",)
    own = LayerPlan(f"{block.name}.mlp.experts.down", (64, 64), W8, experts=2, files=files)
    found = config(replace(plan, blocks=(replace(block, layers=(*block.layers, own)),)))
    names = {name for name in found if "moe" in name}
    assert names == {
        "model.layers.0.moe.experts.0.w2",
        "model.layers.0.moe.experts.1.w2",
        "model.layers.0.moe.switch_mlp.down_proj",
    }


@pytest.mark.parametrize(
    ("found", "mlx"),
    [
        ({"bits": 4, "group_size": 64}, True),
        ({"bits": 4, "group_size": 64, "quant_method": "gptq"}, False),
        ({"bits": 4}, False),
        ({}, False),
    ],
)
def test_it_is_told_by_what_it_lacks(found: dict[str, Any], mlx: bool) -> None:
    assert is_mlx(found) == mlx


def test_files_say_which_layers_are_quantized_and_the_config_how() -> None:
    found = config(plan_of([W4, W8, None]))
    tensors = {f"{name}.biases" for name in (Q, UP)} | {f"{DOWN}.weight", f"{Q}.scales"}
    assert quantized_layers(found, [Q, UP, DOWN], tensors) == {
        Q: Scheme(4, 32, False),
        UP: Scheme(8, 64, False),
    }


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"mode": "mxfp4"}, "MLX quantization mode 'mxfp4' of the model cannot be read"),
        ({"bits": "four"}, "bits of the model is 'four'; legal"),
        ({"a": {"mode": "mxfp4"}}, "MLX quantization mode 'mxfp4' of layer a cannot be read"),
        ({"bits": 7}, "layer a: it holds 2, 3, 4, 5, 6, 8 bits, not 7"),
        ({"a": {"group_size": 16}}, "layer a: its groups are 32, 64, 128, not 16"),
    ],
)
def test_configs_that_cannot_be_read_are_refused(found: dict[str, Any], words: str) -> None:
    with pytest.raises(FormatError, match=words):
        quantized_layers({"bits": 4, "group_size": 64, **found}, ["a"], {"a.biases"})
