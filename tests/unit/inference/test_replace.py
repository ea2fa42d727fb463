"""Empty packed layers take the place of a model's own where the checkpoint has some."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from autoround.errors import FormatError
from autoround.inference.linear import QuantLinear
from autoround.inference.replace import replace_layers
from autoround.model.build import build_empty
from autoround.model.files.source import CheckpointSource
from autoround.types import Scheme

from ...tiny_quantized import write_quantized

W4 = Scheme(4, 32, True)


def opened(
    folder: Path, source: Path, choose: Callable[[str], Scheme | None]
) -> tuple[nn.Module, dict[str, Any], dict[str, Any]]:
    """Return the empty model of a quantized checkpoint, its config and its headers."""
    write_quantized(source, folder, choose)
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    return build_empty(source), config, dict(CheckpointSource(folder).headers())


def some(name: str) -> Scheme | None:
    return None if "v_proj" in name else Scheme(3, 16, False) if "down" in name else W4


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_layers_wait_for_the_tensors_of_the_files(
    kind: str, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    model, config, headers = opened(tmp_path / "out", checkpoint(kind), some)
    replace_layers(model, config, headers)
    found = {name: m for name, m in model.named_modules() if isinstance(m, QuantLinear)}
    assert len(found) == 2 * 6
    assert not any("v_proj" in name for name in found)
    for name, layer in found.items():
        assert layer.scheme == some(name)
        assert (layer.bias is not None) == (
            kind == "qwen2" and "self_attn" in name and "o_" not in name
        )
        for part, buffer in layer.named_buffers():
            shape, dtype = headers[f"{name}.{part}"]
            assert (tuple(buffer.shape), buffer.dtype) == (shape, dtype)


def test_biases_that_are_not_filled_yet_may_have_another_dtype(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    model, config, headers = opened(tmp_path / "out", checkpoint("qwen2"), lambda name: W4)
    replace_layers(model, config, headers, dtype=torch.bfloat16)
    layer = model.get_submodule("model.layers.0.self_attn.q_proj")
    assert isinstance(layer, QuantLinear)
    assert layer.bias is not None
    assert layer.bias.dtype == torch.bfloat16
    assert layer.get_buffer("scales").dtype == torch.float16


def test_a_bias_that_only_the_files_know_is_waited_for(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    model, config, headers = opened(tmp_path / "out", checkpoint("llama"), lambda name: W4)
    name = "model.layers.1.mlp.up_proj"
    headers[f"{name}.bias"] = ((96,), torch.float16)
    replace_layers(model, config, headers)
    layer = model.get_submodule(name)
    assert isinstance(layer, QuantLinear)
    assert layer.bias is not None


def test_a_config_of_another_model_is_refused(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    model, config, headers = opened(tmp_path / "out", checkpoint("llama"), lambda name: W4)
    with pytest.raises(FormatError, match="names no layer of this model"):
        replace_layers(nn.Sequential(nn.Linear(4, 4)), config, headers)
    del headers["model.layers.0.mlp.up_proj.scales"]
    with pytest.raises(FormatError, match=r"model.layers.0.mlp.up_proj"):
        replace_layers(model, config, headers)


def test_packed_layers_that_have_no_place_are_refused(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    model, config, headers = opened(tmp_path / "out", checkpoint("llama"), lambda name: W4)
    for part in ("qweight", "qzeros", "scales"):
        headers[f"model.layers.0.mlp.experts.0.w1.{part}"] = ((4, 4), torch.int32)
    with pytest.raises(
        FormatError, match=r"1 packed layers .* model.layers.0.mlp.experts.0.w1 .*autoround.load"
    ):
        replace_layers(model, config, headers)
