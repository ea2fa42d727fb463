"""Files are on the disk whole or not at all, whenever a process ends."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from safetensors import SafetensorError

from autoround.errors import OutputError
from autoround.storage.durable import (
    existing_parent,
    make_synced,
    replace_synced,
    sync_path,
    write_text,
)

from ... import faults

OLD, NEW = "what was there", "what is there now, after all"


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the inodes that are synced, as they are."""
    found: list[int] = []
    original = os.fsync

    def fsync(descriptor: int) -> None:
        found.append(os.fstat(descriptor).st_ino)
        original(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    return found


@pytest.mark.parametrize("power", [True, False])
def test_a_file_is_the_old_one_or_the_new_one_wherever_the_process_ends(
    power: bool, tmp_path: Path
) -> None:
    path = tmp_path / "file.txt"
    path.write_text(OLD)
    sync_path(path)
    found = []
    at = 0
    ended = True
    while ended:
        at += 1
        ended = faults.killed(
            lambda: write_text(path, NEW), at=at, lost=tmp_path if power else None
        )
        found.append(path.read_text())
    assert set(found) == {OLD, NEW}
    assert found == sorted(found, key=[OLD, NEW].index)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]


def test_the_contents_are_synced_before_the_name_and_the_name_after(
    synced: list[int], tmp_path: Path
) -> None:
    write_text(tmp_path / "file", NEW)
    assert synced == [(tmp_path / "file").stat().st_ino, tmp_path.stat().st_ino]


@pytest.mark.parametrize("error", [OSError("no room"), SafetensorError("no room")])
def test_what_cannot_be_written_leaves_the_old_file(error: Exception, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text(OLD)

    def fail(aside: Path) -> None:
        aside.write_text("half")
        raise error

    with pytest.raises(OutputError, match="file cannot be written: .*no room") as raised:
        replace_synced(path, fail)
    assert raised.value.__cause__ is error
    assert path.read_text() == OLD


def test_a_mistake_of_the_writer_is_no_full_disk(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        replace_synced(tmp_path / "file", lambda aside: 1 // 0)
    assert not (tmp_path / "file").exists()


def test_text_is_utf_8(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "σ ≤ 1\n")
    assert (tmp_path / "file").read_bytes() == "σ ≤ 1\n".encode()


def test_the_nearest_folder_that_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert existing_parent(tmp_path / "a" / "b" / "c") == tmp_path
    assert existing_parent(tmp_path) == tmp_path.parent
    monkeypatch.chdir(tmp_path)
    assert existing_parent(Path("a/b")) == tmp_path


def test_every_folder_that_is_made_is_synced_into_the_one_above(
    synced: list[int], tmp_path: Path
) -> None:
    make_synced(tmp_path / "a" / "b" / "c")
    above = [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]
    assert sorted(synced) == sorted(folder.stat().st_ino for folder in above)
    synced.clear()
    make_synced(tmp_path / "a" / "b" / "c")
    assert synced == [above[-1].stat().st_ino]


def test_a_file_in_the_way_of_a_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").write_text(OLD)
    for folder in (tmp_path / "a", tmp_path / "a" / "b"):
        with pytest.raises(OSError, match="a"):
            make_synced(folder)
    with pytest.raises(FileNotFoundError):
        sync_path(tmp_path / "b")
