from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from autoround.export import shards
from autoround.export.planned_shards import PlannedShards, lay_out_shards
from autoround.export.safetensors_header import METADATA
from autoround.export.shards import ShardWriter
from autoround.export.spool import Spool
from autoround.storage.files import WritableFile

TENSORS: dict[str, Tensor] = {
    "w.packed": torch.arange(24, dtype=torch.int32).reshape(4, 6),
    "w.scale": torch.arange(8, dtype=torch.float16).reshape(4, 2).t(),
    "norm": torch.ones(5, dtype=torch.bfloat16),
    "empty": torch.zeros((0, 3), dtype=torch.int64),
    "v.packed": torch.arange(24, dtype=torch.int32).reshape(6, 4) - 7,
    "one": torch.tensor(3.5),
}
CONFIG = {"model_type": "toy"}


def on_meta(tensors: dict[str, Tensor]) -> list[tuple[str, Tensor]]:
    return [(name, torch.empty_like(t, device="meta")) for name, t in tensors.items()]


def write(folder: Path, limit: int, expected: dict[str, Tensor] | None) -> dict[str, bytes]:
    """Write all tensors; return what every file holds."""
    with ShardWriter(folder, max_shard_bytes=limit) as writer:
        if expected is not None:
            writer.expect(on_meta(expected))
        for name, tensor in TENSORS.items():
            writer.add({name: tensor})
        writer.finish(CONFIG)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("limit", [1 << 20, 120, 96, 1])
def test_bytes_are_those_of_tensors_that_were_not_expected(
    limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spooled = write(tmp_path / "spooled", limit, None)
    monkeypatch.setattr(shards, "Spool", None)
    assert write(tmp_path / "planned", limit, TENSORS) == spooled


def test_each_byte_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: dict[str, int] = {"bytes": 0}
    real = WritableFile.write

    def count(self: WritableFile, data: bytes | bytearray | memoryview) -> None:
        written["bytes"] += memoryview(data).nbytes
        real(self, data)

    monkeypatch.setattr(WritableFile, "write", count)
    files = write(tmp_path / "out", 120, TENSORS)
    marker = 51
    assert written["bytes"] - sum(map(len, files.values())) == marker


#: What is expected, beside what comes.
OTHERS = {
    "one more": {**TENSORS, "more": torch.ones(3)},
    "one less": {n: t for n, t in TENSORS.items() if n != "v.packed"},
    "another shape": {**TENSORS, "v.packed": TENSORS["v.packed"].t()},
    "another type": {**TENSORS, "norm": TENSORS["norm"].float()},
    "nothing": {},
}


@pytest.mark.parametrize("limit", [1 << 20, 120, 1])
@pytest.mark.parametrize("expected", OTHERS.values(), ids=OTHERS)
def test_others_than_were_expected_are_written_all_the_same(
    expected: dict[str, Tensor], limit: int, tmp_path: Path
) -> None:
    plain = write(tmp_path / "spooled", limit, None)
    assert write(tmp_path / "other", limit, expected) == plain


def test_places_are_those_of_the_library_in_whatever_order_tensors_come(tmp_path: Path) -> None:
    layouts = lay_out_shards(on_meta(TENSORS), 1 << 20)
    assert len(layouts) == 1
    planned = PlannedShards(tmp_path, layouts)
    names = list(TENSORS)
    random.Random(0).shuffle(names)
    for name in names:
        assert not planned.complete
        planned.write(name, TENSORS[name])
        assert torch.equal(planned.read(name), TENSORS[name])
        assert planned.read(name).dtype == TENSORS[name].dtype
    assert planned.complete
    save_file({n: t.contiguous() for n, t in TENSORS.items()}, tmp_path / "t", metadata=METADATA)
    assert planned.paths[0].read_bytes() == (tmp_path / "t").read_bytes()
    assert planned.contents == [{n: t.numel() * t.element_size() for n, t in TENSORS.items()}]


def test_a_shard_is_synced_as_soon_as_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    real = WritableFile.sync

    def note(self: WritableFile) -> None:
        synced.append(len(written))
        real(self)

    monkeypatch.setattr(WritableFile, "sync", note)
    layouts = lay_out_shards(on_meta(TENSORS), 120)
    assert [list(layout.parts) for layout in layouts] == [
        ["w.packed", "w.scale"],
        ["norm", "empty", "v.packed", "one"],
    ]
    planned = PlannedShards(tmp_path, layouts)
    written: list[str] = []
    for name, tensor in TENSORS.items():
        written.append(name)
        planned.write(name, tensor)
    assert synced == [2, 6]
    assert all(load_file(path) for path in planned.paths)
    planned.remove()
    assert list(tmp_path.iterdir()) == []


def test_what_is_expected_is_told_by_name_type_and_shape(tmp_path: Path) -> None:
    planned = PlannedShards(tmp_path, lay_out_shards(on_meta(TENSORS), 1))
    assert planned.expects("norm", torch.zeros(5, dtype=torch.bfloat16))
    assert not planned.expects("norm", torch.zeros(5))
    assert not planned.expects("norm", torch.zeros(6, dtype=torch.bfloat16))
    assert not planned.expects("normal", torch.zeros(5, dtype=torch.bfloat16))


def test_a_disk_that_is_full_while_all_is_spooled_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(Spool, "add", full)
    with pytest.raises(shards.OutputError, match="cannot be written: No space left on device"):
        write(tmp_path / "out", 1 << 20, OTHERS["one more"])
    assert list(tmp_path.iterdir()) == []
