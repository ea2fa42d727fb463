"""A class that is written down matches a checkpoint as the class itself does, or says nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from autoround.checkpoints.known_layers import MatchedLayers, match_known_class
from autoround.checkpoints.packed_layers import match_class, match_class_if_built
from autoround.errors import ModelError
from autoround.model.files.locate import read_config, read_quantization
from autoround.model.files.stored import SINGLE, StoredFiles
from autoround.types import Scheme

from ...foreign import write_base, write_foreign
from ...tiny_quantized import write_quantized

W4, W2 = Scheme(4, 32, True), Scheme(2, 32, False)
Checkpoint = Callable[[str], Path]
Change = Callable[[dict[str, Tensor]], Any]
UP = "model.layers.1.mlp.up_proj"


def choose(name: str) -> Scheme | None:
    return None if "down" in name else W2 if "q_proj" in name else W4


def known(folder: Path) -> MatchedLayers | None:
    config = read_config(folder)
    quantization = read_quantization(folder, config)
    assert quantization is not None
    return match_known_class(folder, StoredFiles(folder), config, quantization)


def by_class(folder: Path) -> MatchedLayers:
    quantization = read_quantization(folder, read_config(folder))
    assert quantization is not None
    return match_class(folder, StoredFiles(folder), quantization)


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3"])
def test_a_dense_model_is_matched_as_its_class_does(
    checkpoint: Checkpoint, tmp_path: Path, kind: str
) -> None:
    write_quantized(checkpoint(kind), tmp_path / "out", choose)
    found = known(tmp_path / "out")
    assert found is not None
    wanted = by_class(tmp_path / "out")
    assert found == wanted
    assert list(found.layers) == list(wanted.layers)


@pytest.mark.parametrize(
    "name", ["auto_round-moe-gptq", "auto_round-moe-mixed", "autoawq-moe", "thebloke-gptq"]
)
def test_files_of_other_programs_are_matched_as_their_class_does(name: str, tmp_path: Path) -> None:
    kind = "qwen3_moe" if "moe" in name else "llama"
    folder = write_foreign(name, write_base(kind, tmp_path / "base"), tmp_path / "out").folder
    found = known(folder)
    assert found is not None
    wanted = by_class(folder)
    assert found == wanted
    assert list(found.layers) == list(wanted.layers)


def without(name: str) -> Change:
    return lambda tensors: [tensors.pop(key) for key in list(tensors) if key.startswith(name)]


@pytest.mark.parametrize(
    "change",
    [
        without("model.norm.weight"),
        without(UP),
        lambda x: x.update({"model.norm.weight": torch.ones(3)}),
        lambda x: x.update({"mtp.fc.weight": torch.ones(3, 3)}),
        lambda x: x.update({UP + ".bias": torch.ones(96)}),
    ],
)
def test_what_does_not_fit_is_left_to_the_class(
    checkpoint: Checkpoint, tmp_path: Path, change: Change
) -> None:
    folder = tmp_path / "out"
    write_quantized(checkpoint("llama"), folder, choose)
    tensors = load_file(folder / SINGLE)
    change(tensors)
    save_file(tensors, folder / SINGLE)
    assert known(folder) is None


def test_experts_that_are_held_in_several_ways_are_left_to_the_class(tmp_path: Path) -> None:
    base = write_base("qwen3_moe", tmp_path / "base")
    folder = write_foreign("auto_round-moe-gptq", base, tmp_path / "out").folder
    tensors = load_file(folder / SINGLE)
    expert = "model.layers.0.mlp.experts.1.up_proj"
    without(expert)(tensors)
    tensors[expert + ".weight"] = torch.ones(128, 128).half()
    save_file(tensors, folder / SINGLE)
    assert known(folder) is None


def test_a_config_that_builds_nothing_is_told_by_the_class(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    write_quantized(checkpoint("llama"), folder, choose)
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    config = {**read_config(folder), "hidden_size": "64"}
    (other / "config.json").write_text(json.dumps(config))
    assert known(other) is None
    quantization = config["quantization_config"]
    assert match_class_if_built(other, StoredFiles(other), quantization) is None
    with pytest.raises(ModelError, match="cannot be built"):
        match_class(other, StoredFiles(other), quantization)
