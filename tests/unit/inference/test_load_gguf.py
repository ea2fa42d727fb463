"""A GGUF file with its config beside it becomes a model of transformers, unpacked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from autoround import api
from autoround.errors import FormatError, ModelError
from autoround.inference.load_gguf import load_gguf

from ...runs import NEAREST, even_device, logits, small
from ...tiny import make_byte_tokenizer, make_model, token_ids

__all__ = ["even_device"]


def written(kind: str, folder: Path, file_type: str = "q8_0") -> Path:
    values = {**NEAREST, "output.format": f"gguf:{file_type}", "output.dtype": "auto"}
    api.quantize(
        make_model(kind),
        small(values),
        output_dir=folder,
        tokenizer=make_byte_tokenizer(),
        device="cpu",
    )
    return folder


def stored(folder: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a file by llama.cpp's own package."""
    (file,) = folder.glob("*.gguf")
    return {
        t.name: torch.from_numpy(np.array(gguf.quants.dequantize(t.data, t.tensor_type)))
        for t in gguf.GGUFReader(file).tensors
    }


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written("llama", tmp_path_factory.mktemp("gguf") / "out")


def test_weights_are_those_of_the_file(llama: Path) -> None:
    model: Any = load_gguf(llama, device="cpu")
    held = stored(llama)
    layer = model.model.layers[1]
    assert torch.equal(layer.mlp.down_proj.weight, held["blk.1.ffn_down.weight"])
    assert torch.equal(layer.self_attn.v_proj.weight, held["blk.1.attn_v.weight"])
    assert torch.equal(layer.input_layernorm.weight, held["blk.1.attn_norm.weight"])
    assert torch.equal(model.lm_head.weight, held["output.weight"])
    assert not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not any(p.is_meta for p in model.parameters())


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen2"])
def test_it_answers_nearly_as_the_original(kind: str, tmp_path: Path) -> None:
    ids = token_ids(2, 12)
    found = logits(load_gguf(written(kind, tmp_path / "out"), device="cpu"), ids)
    wanted = logits(make_model(kind), ids)
    assert float((found - wanted).norm() / wanted.norm()) < 0.05


def test_tied_embeddings_stay_one_tensor(tmp_path: Path) -> None:
    model: Any = load_gguf(written("gpt2", tmp_path / "out"), device="cpu")
    assert model.lm_head.weight is model.transformer.wte.weight


def test_folders_without_a_file_or_with_several_are_refused(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((llama / "config.json").read_text())
    with pytest.raises(FormatError, match="holds no GGUF file"):
        load_gguf(tmp_path, device="cpu")
    (file,) = llama.glob("*.gguf")
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(file.read_bytes())
    with pytest.raises(ModelError, match="holds several GGUF files: a.gguf, b.gguf"):
        load_gguf(tmp_path, device="cpu")


def test_a_file_of_another_model_is_refused(llama: Path, tmp_path: Path) -> None:
    (file,) = llama.glob("*.gguf")
    (tmp_path / "a.gguf").write_bytes(file.read_bytes())
    config = json.loads((llama / "config.json").read_text())
    for change in ({"intermediate_size": 128}, {"num_hidden_layers": 3}):
        (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(FormatError, match="should have shape"):
            load_gguf(tmp_path, device="cpu")


def test_a_file_that_was_cut_off_is_refused(llama: Path, tmp_path: Path) -> None:
    (file,) = llama.glob("*.gguf")
    (tmp_path / "config.json").write_text((llama / "config.json").read_text())
    whole = file.read_bytes()
    for size in (10, len(whole) // 2):
        (tmp_path / "a.gguf").write_bytes(whole[:size])
        with pytest.raises(FormatError):
            load_gguf(tmp_path, device="cpu")
