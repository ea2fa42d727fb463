"""The comparison of what two trees write; tools/same_bytes.py runs the trees themselves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from autoround.recipe.schema import Recipe
from tools import same_bytes, same_bytes_job


def write(folder: Path, tensors: dict[str, torch.Tensor], config: object = None) -> Path:
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def base_tensors() -> dict[str, torch.Tensor]:
    return {
        "a": torch.arange(6, dtype=torch.int32).reshape(2, 3),
        "b": torch.ones(4, dtype=torch.bfloat16),
    }


def test_same_tensors_in_other_shards_are_equal(tmp_path: Path) -> None:
    tensors = base_tensors()
    left = write(tmp_path / "base", tensors)
    right = write(tmp_path / "this", {"a": tensors["a"]})
    save_file({"b": tensors["b"]}, right / "more.safetensors")
    assert same_bytes.differences(left, right) == []


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"a": torch.ones(2, 3, dtype=torch.int32)}, "bytes differ"),
        ({"a": base_tensors()["a"].reshape(3, 2)}, "I32 [2, 3] is I32 [3, 2] in this tree"),
        ({"b": torch.ones(4, dtype=torch.float16)}, "BF16 [4] is F16 [4] in this tree"),
        ({"c": torch.ones(1)}, "c: only in this tree"),
    ],
)
def test_difference_is_named(tensors: dict[str, torch.Tensor], words: str, tmp_path: Path) -> None:
    left = write(tmp_path / "base", base_tensors())
    right = write(tmp_path / "this", {**base_tensors(), **tensors})
    (line,) = same_bytes.differences(left, right)
    assert words in line


def test_config_is_compared(tmp_path: Path) -> None:
    left = write(tmp_path / "base", base_tensors(), {"bits": 4})
    right = write(tmp_path / "this", base_tensors(), {"bits": 8})
    assert same_bytes.differences(left, right) == ["config.json (config): 1 of 11 bytes differ"]


def test_missing_tensor_is_named(tmp_path: Path) -> None:
    left = write(tmp_path / "base", base_tensors())
    right = write(tmp_path / "this", {"a": base_tensors()["a"]})
    assert same_bytes.differences(left, right) == [".#b: only in base"]


def test_nothing_written_is_no_success(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "this").mkdir()
    assert same_bytes.differences(tmp_path / "base", tmp_path / "this")


def test_keys_of_all_jobs_are_keys_of_a_recipe() -> None:
    for job in (*same_bytes.WHOLE, *same_bytes.QUICK):
        for key in (*same_bytes.COMMON, *job.values):
            assert same_bytes_job.has_key(Recipe, key), (job.name, key)


def test_every_job_has_its_own_name() -> None:
    names = [job.name for job in (*same_bytes.WHOLE, *same_bytes.QUICK)]
    assert len(names) == len(set(names))
