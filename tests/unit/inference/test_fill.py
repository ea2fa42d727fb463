"""Modules filled from a checkpoint: which tensors they take, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from autoround.errors import FormatError
from autoround.inference.fill import Filler
from autoround.inference.load import open_empty
from autoround.types import Scheme

from ...tiny_quantized import write_quantized

Checkpoint = Callable[[str], Path]
UP = "model.layers.0.mlp.up_proj"


def filler(folder: Path) -> tuple[torch.nn.Module, Filler]:
    model, opened, packed = open_empty(folder)
    return model, Filler.of(model, opened, packed, dtype=torch.bfloat16, place=None)


@pytest.fixture
def folder(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    write_quantized(checkpoint("llama"), tmp_path / "out", lambda name: Scheme(4, 32, True))
    return tmp_path / "out"


def test_a_module_takes_its_own_tensors_and_none_of_those_inside(folder: Path) -> None:
    model, fill = filler(folder)
    layer, block = model.get_submodule(UP), model.get_submodule("model.layers.0")
    fill.fill("model.layers.0", block)
    assert all(t.device.type == "meta" for t in layer.buffers())
    fill.fill(UP, layer)
    (file,) = folder.glob("*.safetensors")
    for name, tensor in load_file(file).items():
        if name.startswith(f"{UP}."):
            assert torch.equal(layer.get_buffer(name.removeprefix(f"{UP}.")), tensor)


def test_kept_tensors_take_the_dtype_and_scales_do_not(folder: Path) -> None:
    model, fill = filler(folder)
    for path in (UP, "model.norm"):
        fill.fill(path, model.get_submodule(path))
    assert model.get_submodule("model.norm").weight.dtype == torch.bfloat16
    assert model.get_submodule(UP).get_buffer("scales").dtype == torch.float16


def test_tied_weights_are_read_where_a_module_stands_alone(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    write_quantized(checkpoint("gpt2"), tmp_path / "out", lambda name: Scheme(4, 32, True))
    model, fill = filler(tmp_path / "out")
    head = model.get_submodule("lm_head")
    fill.fill("lm_head", head)
    assert head.weight.is_meta
    fill.fill("lm_head", head, tied=True)
    tokens = model.get_submodule("transformer.wte")
    fill.fill("transformer.wte", tokens)
    assert torch.equal(head.weight, tokens.weight)


@pytest.mark.parametrize(
    ("path", "part", "value", "reason"),
    [
        (UP, "scales", float("nan"), "holds NaN"),
        (UP, "scales", float("inf"), "holds infinity"),
        ("model.norm", "weight", float("nan"), "holds NaN"),
    ],
)
def test_what_is_no_number_is_named(
    path: str, part: str, value: float, reason: str, folder: Path
) -> None:
    (file,) = folder.glob("*.safetensors")
    tensors = load_file(file)
    tensors[f"{path}.{part}"][-1] = value
    save_file(tensors, file, metadata={"format": "pt"})
    model, fill = filler(folder)
    with pytest.raises(FormatError, match=f"{path}.{part} {reason}"):
        fill.fill(path, model.get_submodule(path))
