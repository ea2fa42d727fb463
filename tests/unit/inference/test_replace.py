"""Empty packed layers take the place of a model's own where the checkpoint has some."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from autoround.errors import FormatError
from autoround.inference.experts import QuantExperts
from autoround.inference.linear import QuantLinear
from autoround.inference.opening import Opened, open_packed
from autoround.inference.replace import check_header, replace_layers
from autoround.model.build import build_empty
from autoround.model.files.source import CheckpointSource, Headers
from autoround.types import Scheme

from ...tiny_quantized import write_quantized

W4 = Scheme(4, 32, True)
UP = "model.layers.1.mlp.up_proj"


class Edited(CheckpointSource):
    """A checkpoint whose headers say something else."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.edited = dict(super().headers())

    def headers(self) -> Headers:
        return self.edited


def opened(
    folder: Path, source: Path, choose: Callable[[str], Scheme | None], *, bias: str = ""
) -> tuple[nn.Module, Opened]:
    """Return the empty model of a quantized checkpoint, and the checkpoint.

    bias: a layer that has one in the files alone.
    """
    write_quantized(source, folder, choose)
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    files, model = Edited(folder), build_empty(source)
    if bias:
        files.edited[f"{bias}.bias"] = ((96,), torch.float16)
    return model, open_packed(folder, model, config, files=files)


def some(name: str) -> Scheme | None:
    return None if "v_proj" in name else Scheme(3, 16, False) if "down" in name else W4


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_layers_wait_for_the_tensors_of_the_files(
    kind: str, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    model, files = opened(tmp_path / "out", checkpoint(kind), some)
    names = replace_layers(model, files)
    found = {name: m for name, m in model.named_modules() if isinstance(m, QuantLinear)}
    assert names == {name: name for name in found}
    assert len(found) == 2 * 6
    assert not any("v_proj" in name for name in found)
    for name, layer in found.items():
        assert layer.scheme == some(name)
        assert not layer.of_experts
        assert (layer.bias is not None) == (
            kind == "qwen2" and "self_attn" in name and "o_" not in name
        )
        for part, buffer in layer.named_buffers():
            shape, dtype = files.files.headers()[f"{name}.{part}"]
            assert (tuple(buffer.shape), buffer.dtype) == (shape, dtype)


def test_layers_that_store_their_weight_turned_are_marked(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    for kind, turned in (("gpt2", True), ("llama", False)):
        model, files = opened(tmp_path / kind, checkpoint(kind), lambda name: W4)
        names = replace_layers(model, files)
        assert {model.get_submodule(name).transposed for name in names} == {turned}


def test_biases_that_are_not_filled_yet_may_have_another_dtype(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    model, files = opened(tmp_path / "out", checkpoint("qwen2"), lambda name: W4)
    replace_layers(model, files, dtype=torch.bfloat16)
    layer = model.get_submodule("model.layers.0.self_attn.q_proj")
    assert isinstance(layer, QuantLinear)
    assert layer.bias is not None
    assert layer.bias.dtype == torch.bfloat16
    assert layer.get_buffer("scales").dtype == torch.float16


def test_a_bias_that_only_the_files_know_is_waited_for(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    model, files = opened(tmp_path / "out", checkpoint("llama"), lambda name: W4, bias=UP)
    replace_layers(model, files)
    layer = model.get_submodule(UP)
    assert isinstance(layer, QuantLinear)
    assert layer.bias is not None


def test_experts_have_the_paths_of_their_files(
    quantized_family: Callable[[str], Path],
) -> None:
    for kind, file, path in (
        ("mixtral", "model.layers.1.block_sparse_moe.experts.1.w2", "mlp.experts.1.w2"),
        ("gpt_oss", "model.layers.1.mlp.experts.3.up_proj", "mlp.experts.3.up_proj"),
    ):
        folder = quantized_family(kind)
        model = build_empty(folder)
        config = json.loads((folder / "config.json").read_text())["quantization_config"]
        names = replace_layers(model, open_packed(folder, model, config))
        assert isinstance(model.get_submodule("model.layers.1.mlp.experts"), QuantExperts)
        assert names[f"model.layers.1.{path}"] == file
        assert len(set(names.values())) == len(names)


def test_a_checkpoint_of_another_model_is_refused(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    model, files = opened(tmp_path / "out", checkpoint("llama"), lambda name: W4)
    with pytest.raises(FormatError, match="names no layer of this model"):
        replace_layers(model, files._replace(linears={}))
    assert isinstance(files.files, Edited)
    del files.files.edited[f"{UP}.scales"]
    with pytest.raises(FormatError, match=rf"tensor {UP}.scales should have shape .*nothing"):
        replace_layers(model, files)


def test_a_tensor_is_held_against_the_models() -> None:
    wanted = torch.empty((4, 8), dtype=torch.int32, device="meta")
    check_header(((4, 8), torch.int32), wanted, "it")
    check_header(((4, 8), torch.float16), wanted.float(), "it")
    with pytest.raises(
        FormatError, match=r"it should have shape \(4, 8\); the files have \(8, 4\)"
    ):
        check_header(((8, 4), torch.int32), wanted, "it")
    with pytest.raises(FormatError, match=r"it should have dtype torch.int32.*torch.int64"):
        check_header(((4, 8), torch.int64), wanted, "it")
