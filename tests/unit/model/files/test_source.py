# Tests: autoround/model/files/stored.py
from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from autoround.errors import ModelError
from autoround.model.files import stored
from autoround.model.files.source import CheckpointSource, ModuleSource
from autoround.model.files.stored import INDEX, SINGLE, tensor_files
from autoround.storage.dtypes import SAFETENSORS

Checkpoint = Callable[[str], Path]

TENSORS = {
    "a": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "b": torch.ones(4, dtype=torch.bfloat16),
    "c": torch.tensor(7, dtype=torch.int64),
}


def write_index(folder: Path, content: object) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / INDEX).write_text(text, encoding="utf-8")


def write_shards(folder: Path, tensors: dict[str, Tensor] | None = None) -> dict[str, str]:
    """Write every tensor to a file of its own; return which."""
    weight_map = {}
    for i, (name, tensor) in enumerate((tensors or TENSORS).items()):
        weight_map[name] = f"model-{i}.safetensors"
        save_file({name: tensor}, folder / weight_map[name])
    write_index(folder, {"metadata": {}, "weight_map": weight_map})
    return weight_map


def assert_same(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        assert got[name].dtype == tensor.dtype
        assert torch.equal(got[name], tensor)


def test_some_files_of_a_folder(tmp_path: Path) -> None:
    weight_map = write_shards(tmp_path)
    opened = CheckpointSource(tmp_path, files=[tmp_path / weight_map[n] for n in "ac"])
    assert set(opened.headers()) == {"a", "c"}
    assert_same(opened.read(["c"]), {"c": TENSORS["c"]})
    with pytest.raises(ModelError, match="has no tensor 'b'"):
        opened.read(["b"])
    assert CheckpointSource(tmp_path, files=[]).headers() == {}


def test_one_file(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / SINGLE)
    opened = CheckpointSource(tmp_path)
    assert opened.headers() == {
        "a": ((2, 3), torch.float32),
        "b": ((4,), torch.bfloat16),
        "c": ((), torch.int64),
    }
    assert_same(opened.read(TENSORS), TENSORS)
    assert_same(opened.read(["b"]), {"b": TENSORS["b"]})
    assert opened.read([]) == {}


def test_shards_are_as_one_file(tmp_path: Path, checkpoint: Checkpoint) -> None:
    from transformers import AutoModelForCausalLM

    folder = checkpoint("qwen3")
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(tmp_path, max_shard_size="50KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    single, sharded = CheckpointSource(folder), CheckpointSource(tmp_path)
    assert sharded.headers() == single.headers()
    names = list(single.headers())
    assert_same(sharded.read(names), single.read(names))
    assert_same(sharded.read(names[::-2]), single.read(names[::-2]))


def test_what_is_read_does_not_keep_the_file_mapped(tmp_path: Path) -> None:
    save_file({"big": torch.zeros(1000), "small": torch.ones(2)}, tmp_path / SINGLE)
    read = CheckpointSource(tmp_path).read(["small"])["small"]
    assert read.untyped_storage().nbytes() == 8


def test_a_file_larger_than_any_memory_is_read_tensor_by_tensor(tmp_path: Path) -> None:
    """torch maps files to be written to: Linux refuses one that exceeds the memory there is."""
    huge = 1 << 40
    header = {
        "small": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "huge": {"dtype": "U8", "shape": [1024, huge // 1024], "data_offsets": [24, 24 + huge]},
    }
    text = json.dumps(header).encode()
    file = tmp_path / SINGLE
    with file.open("wb") as opened:
        opened.write(len(text).to_bytes(8, "little") + text)
        opened.write(torch.arange(6.0).numpy().tobytes())
        try:
            opened.truncate(8 + len(text) + 24 + huge)
        except OSError as error:
            pytest.skip(f"no file of holes here: {error}")
    found = CheckpointSource(tmp_path)
    assert found.headers()["huge"] == ((1024, huge // 1024), torch.uint8)
    assert torch.equal(found.read(["small"])["small"], torch.arange(6.0).reshape(2, 3))
    overcommit = Path("/proc/sys/vm/overcommit_memory")
    if not overcommit.is_file() or overcommit.read_text().strip() == "1":
        return  # such a system promises any memory, and ends what uses it
    with pytest.raises(ModelError, match=r"'huge' of 1024x1073741824 does not fit the memory"):
        found.read(["huge"])


def test_an_unknown_name_is_refused(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / SINGLE)
    with pytest.raises(ModelError, match="no tensor 'd'"):
        CheckpointSource(tmp_path).read(["a", "d"])


@pytest.mark.parametrize("keep", [0, 4, 8, 60, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, keep: int) -> None:
    save_file(TENSORS, tmp_path / SINGLE)
    content = (tmp_path / SINGLE).read_bytes()
    (tmp_path / SINGLE).write_bytes(content[:keep])
    with pytest.raises(ModelError, match=r"model.safetensors is damaged"):
        CheckpointSource(tmp_path).headers()


def test_a_shard_that_is_no_safetensors_is_refused(tmp_path: Path) -> None:
    write_shards(tmp_path)
    (tmp_path / "model-1.safetensors").write_bytes(b"\x80\x02}q\x00." * 20)
    opened = CheckpointSource(tmp_path)
    with pytest.raises(ModelError, match=r"model-1.safetensors is damaged"):
        opened.headers()
    with pytest.raises(ModelError, match=r"model-1.safetensors is damaged"):
        opened.read(["b"])


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"weight_map": []}',
        '{"weight_map": null}',
        '{"weight_map": "model.safetensors"}',
        "[" * 100_000,
        '{"weight_map": ' + "1" * 5000 + "}",
    ],
)
def test_a_bad_index_is_refused(tmp_path: Path, content: str) -> None:
    write_index(tmp_path, content)
    with pytest.raises(ModelError, match="is not a safetensors index"):
        tensor_files(tmp_path)


def test_an_index_of_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / INDEX).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ModelError, match="is not a safetensors index"):
        tensor_files(tmp_path)


def test_a_huge_index_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "MAX_INDEX_BYTES", 2 << 20)
    write_index(tmp_path, " " * ((2 << 20) + 1))
    with pytest.raises(ModelError, match="larger than 2 MiB"):
        tensor_files(tmp_path)


@pytest.mark.parametrize(
    "file",
    [
        "../x.safetensors",
        "/etc/x.safetensors",
        "a/b.safetensors",
        "..\\x.safetensors",
        "C:\\x.safetensors",
        "./x.safetensors",
        "pytorch_model.bin",
        "",
        "..",
        None,
        {"a": 1},
    ],
)
def test_an_index_names_only_files_beside_it(tmp_path: Path, file: Any) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    save_file(TENSORS, tmp_path / "x.safetensors")
    write_index(folder, {"weight_map": {"a": file}})
    with pytest.raises(ModelError, match="tensor 'a' names the illegal file"):
        tensor_files(folder)


def test_an_index_that_names_a_missing_file_is_refused(tmp_path: Path) -> None:
    write_shards(tmp_path)
    (tmp_path / "model-1.safetensors").unlink()
    with pytest.raises(ModelError, match=r"names model-1.safetensors, which is not in"):
        tensor_files(tmp_path)


def test_a_file_without_a_promised_tensor_is_refused(tmp_path: Path) -> None:
    weight_map = write_shards(tmp_path)
    write_index(tmp_path, {"weight_map": {**weight_map, "d": "model-1.safetensors"}})
    opened = CheckpointSource(tmp_path)
    with pytest.raises(ModelError, match=r"model-1.safetensors lacks the tensor 'd'"):
        opened.headers()
    with pytest.raises(ModelError, match="tensor 'd'"):
        opened.read(["d"])


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.Q4_0.gguf"])
def test_other_kinds_of_files_are_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(ModelError, match=f"{name}: convert to safetensors first"):
        CheckpointSource(tmp_path)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has neither model.safetensors nor .*index.json$"):
        CheckpointSource(tmp_path)


@pytest.mark.skipif(not hasattr(torch, "float8_e8m0fnu"), reason="this torch cannot write it")
def test_an_unknown_dtype_is_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2, dtype=torch.float8_e8m0fnu)}, tmp_path / SINGLE)
    with pytest.raises(ModelError, match=r"tensor 'a' has dtype F8_E8M0.*readable: F64, F32"):
        CheckpointSource(tmp_path).headers()


@pytest.mark.parametrize("name", SAFETENSORS.values())
def test_every_listed_dtype_is_read(tmp_path: Path, name: str) -> None:
    dtype = getattr(torch, name)
    save_file({"a": torch.ones(3).to(dtype)}, tmp_path / SINGLE)
    opened = CheckpointSource(tmp_path)
    assert opened.headers() == {"a": ((3,), dtype)}
    assert_same(opened.read(["a"]), {"a": torch.ones(3).to(dtype)})


def test_a_model_in_memory_is_a_source() -> None:
    linear = nn.Linear(2, 3)
    model = nn.Sequential(linear, nn.BatchNorm1d(3))
    opened = ModuleSource(model)
    assert opened.headers()["0.weight"] == ((3, 2), torch.float32)
    assert opened.headers()["1.num_batches_tracked"] == ((), torch.int64)
    read = opened.read(["0.bias", "1.running_var"])
    assert torch.equal(read["0.bias"], linear.bias)
    assert not any(tensor.requires_grad for tensor in read.values())
