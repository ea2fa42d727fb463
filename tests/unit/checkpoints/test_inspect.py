"""What is in a model folder is told from config and headers alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from autoround.checkpoints.inspect import Part, inspect_folder
from autoround.errors import FormatError, ModelError
from autoround.model.files.source import CheckpointSource
from autoround.model.files.stored import SINGLE
from autoround.types import Scheme

from ...tiny_quantized import write_quantized

Checkpoint = Callable[[str], Path]
W4, W3 = Scheme(4, 32, True), Scheme(3, 16, False)


def some(name: str) -> Scheme | None:
    return None if "v_proj" in name else W3 if "down" in name else W4


def test_a_plain_model_is_all_kept(checkpoint: Checkpoint) -> None:
    found = inspect_folder(checkpoint("llama"))
    assert (found.method, found.quantized, found.layers) == ("none", (), {})
    assert found.architecture == "LlamaForCausalLM"
    tensors = load_file(checkpoint("llama") / SINGLE)
    assert found.total.count == len(tensors)
    assert found.total.size == sum(t.nbytes for t in tensors.values())
    assert found.total.weights == sum(t.numel() for t in tensors.values())
    parts = {part.what: part.count for part in found.kept}
    assert parts == {
        "embeddings, float32": 1,
        "output head, float32": 1,
        "other matrices, float32": 14,
        "norms and biases, float32": 5,
    }


def test_packed_layers_are_counted_by_scheme_with_scales_and_zero_points(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    layers = write_quantized(checkpoint("llama"), folder, some)
    tensors = load_file(folder / SINGLE)
    monkeypatch.setattr(CheckpointSource, "read", None)
    found = inspect_folder(folder)
    assert found.method == "auto-round"
    assert set(found.layers) == set(layers)
    for part in found.quantized:
        scheme = W4 if part.what.startswith(str(W4)) else W3
        names = [name for name, layer in layers.items() if layer.scheme == scheme]
        assert part.count == len(names)
        assert part.weights == sum(layers[name].codes.numel() for name in names)
        held = [t.nbytes for n, t in tensors.items() if n.rpartition(".")[0] in names]
        assert part.size == sum(held)
        assert part.bits_per_weight == pytest.approx(8 * sum(held) / part.weights)
    assert found.total.size == sum(t.nbytes for t in tensors.values())


def test_bits_are_those_on_the_disk() -> None:
    assert Part("x", 1, 64, 36).bits_per_weight == 4.5


def test_what_transformers_does_not_know_is_told_by_the_files(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    layers = write_quantized(checkpoint("llama"), folder, some)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "no_such_type", "architectures": None}
    (folder / "config.json").write_text(json.dumps(config))
    found = inspect_folder(folder)
    assert found.architecture == "unknown"
    assert set(found.layers) == set(layers)


def test_a_config_that_names_no_quantized_layer_is_refused(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(checkpoint("llama"), folder)
    config = json.loads((folder / "config.json").read_text())
    quantization = {"quant_method": "gptq", "bits": 4, "group_size": 32}
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": quantization}))
    with pytest.raises(FormatError, match="names no layer that is quantized"):
        inspect_folder(folder)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="it has no config.json"):
        inspect_folder(tmp_path)
