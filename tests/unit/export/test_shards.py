from __future__ import annotations

import json
import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from autoround.errors import ModelError, OutputError, VerificationError
from autoround.export.preflight import check_output, check_room
from autoround.export.shards import ShardWriter
from autoround.export.spool import Spool
from autoround.model.files.source import CheckpointSource
from autoround.model.files.stored import INDEX, SINGLE
from autoround.storage.checksum import checksum

TENSORS = {f"t{i}": torch.arange(16, dtype=torch.float32) + i for i in range(4)}
CONFIG = {"model_type": "toy"}


def write(folder: Path, *, limit: int = 1 << 30, tensors: dict[str, Tensor] = TENSORS) -> int:
    with ShardWriter(folder, max_shard_bytes=limit) as writer:
        for name, tensor in tensors.items():
            writer.add({name: tensor})
        return writer.finish(CONFIG)


def test_a_single_file_has_no_index_and_reads_back(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    size = write(out)
    assert sorted(p.name for p in out.iterdir()) == ["config.json", SINGLE]
    found = load_file(out / SINGLE)
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)
    assert json.loads((out / "config.json").read_text()) == CONFIG
    assert size == sum(p.stat().st_size for p in out.iterdir())
    with safe_open(out / SINGLE, framework="pt") as opened:
        assert opened.metadata() == {"format": "pt"}
    assert [p.name for p in out.parent.iterdir()] == ["out"]


def test_shards_hold_what_the_index_says(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out, limit=2 * 64 + 1)
    shards = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    assert sorted(p.name for p in out.iterdir()) == ["config.json", *shards, INDEX]
    index = json.loads((out / INDEX).read_text())
    assert index["metadata"] == {"total_size": 4 * 64}
    assert index["weight_map"] == {
        "t0": shards[0],
        "t1": shards[0],
        "t2": shards[1],
        "t3": shards[1],
    }
    for shard in shards:
        names = [n for n, s in index["weight_map"].items() if s == shard]
        assert sorted(load_file(out / shard)) == names
    read = CheckpointSource(out).read(TENSORS)
    assert all(torch.equal(read[name], TENSORS[name]) for name in TENSORS)


def test_a_tensor_larger_than_the_limit_gets_a_shard_of_its_own(tmp_path: Path) -> None:
    write(tmp_path / "out", limit=1)
    shards = sorted((tmp_path / "out").glob("*.safetensors"))
    assert [len(load_file(shard)) for shard in shards] == [1, 1, 1, 1]
    assert shards[3].name == "model-00004-of-00004.safetensors"


def test_a_view_is_written_in_its_own_order(tmp_path: Path) -> None:
    matrix = torch.arange(6.0).reshape(2, 3)
    write(tmp_path / "out", tensors={"turned": matrix.t()})
    assert torch.equal(load_file(tmp_path / "out" / SINGLE)["turned"], matrix.t())


@pytest.mark.parametrize("limit", [1 << 30, 1])
def test_a_name_that_comes_twice_is_refused(tmp_path: Path, limit: int) -> None:
    out = tmp_path / "out"
    with ShardWriter(out, max_shard_bytes=limit) as writer:
        writer.add(TENSORS)
        with pytest.raises(OutputError, match="'t0' would be written twice"):
            writer.add({"t0": torch.zeros(1)})
    assert list(tmp_path.iterdir()) == []


def start_and_fail(out: Path, error: BaseException) -> None:
    with ShardWriter(out, max_shard_bytes=1) as writer:
        writer.add(TENSORS)
        assert any(out.with_name(out.name + ".partial").iterdir())
        raise error


@pytest.mark.parametrize("error", [ValueError("boom"), KeyboardInterrupt(), SystemExit(1)])
def test_whatever_stops_it_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        start_and_fail(tmp_path / "out", error)
    assert list(tmp_path.iterdir()) == []


def test_stopped_while_the_config_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(self: ShardWriter, name: str, text: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ShardWriter, "add_text", stop)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("method", ["add", "finish"])
def test_a_full_disk_while_writing_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(Spool, method, full)
    with pytest.raises(OutputError, match=r"cannot be written: No space left on device"):
        write(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_run_leaves_an_existing_empty_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(ValueError, match="boom"):
        start_and_fail(out, ValueError("boom"))
    assert list(tmp_path.iterdir()) == [out]
    assert list(out.iterdir()) == []


def test_an_existing_empty_folder_is_used(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write(tmp_path / "out")
    assert (tmp_path / "out" / "config.json").is_file()


def test_the_rest_of_an_earlier_crash_is_cleared(tmp_path: Path) -> None:
    left = tmp_path / "out.partial"
    left.mkdir()
    (left / "INCOMPLETE").write_text("a run was here")
    (left / "junk").write_text("old")
    write(tmp_path / "out")
    assert not (tmp_path / "out" / "junk").exists()
    assert not (tmp_path / "out" / "INCOMPLETE").exists()
    assert not left.exists()


def test_a_folder_of_somebody_else_is_never_cleared(tmp_path: Path) -> None:
    own = tmp_path / "out.partial"
    own.mkdir()
    (own / "thesis").write_text("precious")
    with pytest.raises(OutputError, match="in the way"):
        write(tmp_path / "out")
    assert (own / "thesis").read_text() == "precious"


def test_a_folder_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(OutputError, match="is not empty"):
        check_output(tmp_path)
    with pytest.raises(OutputError, match="is not empty"):
        write(tmp_path)
    assert (tmp_path / "mine").read_text() == "precious"


def test_a_folder_that_filled_up_meanwhile_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with ShardWriter(out, max_shard_bytes=1) as writer:
        writer.add(TENSORS)
        out.mkdir()
        (out / "mine").write_text("precious")
        with pytest.raises(OutputError, match="is not empty"):
            writer.finish(CONFIG)
    assert [p.name for p in out.iterdir()] == ["mine"]
    assert not (tmp_path / "out.partial").exists()


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("precious")
    with pytest.raises(OutputError, match="is a file"):
        write(path)
    assert path.read_text() == "precious"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_parent_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(OutputError, match=r"cannot be made: .* is not writable"):
            check_output(tmp_path / "a" / "b")
    finally:
        tmp_path.chmod(0o755)


def test_a_parent_that_is_said_not_to_be_writable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: not (path == tmp_path and mode == os.W_OK))
    with pytest.raises(OutputError, match=f"{tmp_path} is not writable"):
        check_output(tmp_path / "a" / "b")


def test_a_file_as_parent_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(OutputError, match=r"cannot be made: .*file is a file"):
        check_output(tmp_path / "file" / "a" / "out")


def test_too_little_room_gives_both_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    asked: list[Path] = []

    def disk_usage(path: Path) -> tuple[int, int, int]:
        asked.append(path)
        return usage(10**12, 10**12, 2 * 10**9)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    with pytest.raises(OutputError, match=r"needs 3\.00 GB, and .* has 2\.00 GB free"):
        check_room(tmp_path / "not" / "yet", 3 * 10**9)
    check_room(tmp_path / "not" / "yet", 2 * 10**9)
    assert asked == [tmp_path, tmp_path]


def test_config_is_the_last_file_to_appear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    add_text, replace = ShardWriter.add_text, os.replace

    def text(self: ShardWriter, name: str, content: str) -> None:
        order.append(name)
        assert (self.staging / "config.json").exists() is False
        add_text(self, name, content)

    def move(source: Path, target: Path) -> None:
        order.append(Path(target).name)
        replace(source, target)

    monkeypatch.setattr(ShardWriter, "add_text", text)
    monkeypatch.setattr(os, "replace", move)
    write(tmp_path / "out", limit=3 * 64)
    shards = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    assert order == [INDEX, *shards, "config.json", "out"]


def test_a_shard_that_reads_back_otherwise_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lossy(self: Spool, metadata: dict[str, str]) -> None:
        save_file({n: t for n, t in TENSORS.items() if n != "t2"}, self._path, metadata=metadata)
        self.close()

    monkeypatch.setattr(Spool, "finish", lossy)
    with pytest.raises(VerificationError, match=r"model\.safetensors was written with other"):
        write(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_side_files_that_describe_the_model_are_copied(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "additional_chat_templates").mkdir()
    copied = (
        "tokenizer.json",
        "vocab.txt",
        "tokenizer.model.v3",
        "chat_template.jinja",
        "additional_chat_templates/rag.jinja",
        "LICENSE.txt",
    )
    others = (
        "config.json",
        INDEX,
        "quantize_config.json",
        "weights.bin",
        "model.safetensors",
        "README.md",
        "run.py",
    )
    for name in (*copied, *others):
        (source / name).write_text(name)
    (source / "folder.json").mkdir()
    with ShardWriter(tmp_path / "out", max_shard_bytes=1 << 20) as writer:
        writer.add(TENSORS)
        writer.copy_side_files(source)
        writer.finish(CONFIG)
    out = tmp_path / "out"
    found = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    assert found == {*copied, SINGLE, "config.json"}
    assert all((out / name).read_text() == name for name in copied)
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == CONFIG


def test_a_link_out_of_the_model_leaves_no_output(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "NOTICE").symlink_to(tmp_path / "secret")
    with (
        pytest.raises(ModelError, match="leads out of the model's folder"),
        ShardWriter(tmp_path / "out", max_shard_bytes=1 << 20) as writer,
    ):
        writer.copy_side_files(tmp_path / "source")
    assert {p.name for p in tmp_path.iterdir()} == {"secret", "source"}


def test_a_tensor_that_the_disk_changed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(self: Spool, metadata: dict[str, str]) -> None:
        save_file({**TENSORS, "t2": TENSORS["t2"] + 1}, self._path, metadata=metadata)
        self.close()

    monkeypatch.setattr(Spool, "finish", damaged)
    with pytest.raises(
        VerificationError, match=r"model\.safetensors: tensor t2 does not read back"
    ):
        write(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int32, torch.bool]
)
def test_a_checksum_sees_values_shape_and_dtype(dtype: torch.dtype) -> None:
    one = torch.tensor([[0, 1, 1], [1, 0, 1]]).to(dtype)
    assert checksum(one) == checksum(one.clone()) == checksum(one.t().contiguous().t())
    assert checksum(one) != checksum(one.reshape(3, 2))
    assert checksum(torch.tensor(1).to(dtype)) != checksum(torch.tensor(0).to(dtype))
    assert checksum(torch.zeros(0).to(dtype)) == checksum(torch.zeros(0).to(dtype))
