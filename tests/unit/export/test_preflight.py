"""Whether an output can be written is told before any work."""

from __future__ import annotations

import os
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from autoround.errors import OutputError
from autoround.export.preflight import check_name, check_output, check_room, room_for_journal
from autoround.types import Destination, Estimate

Usage = namedtuple("Usage", "total used free")
GB = 10**9
ESTIMATE = Estimate(
    disk_bytes=4 * GB,
    source_bytes=0,
    memory_bytes=0,
    seconds_low=0.0,
    seconds_high=0.0,
    bits_per_weight=4.0,
    journal_bytes=5 * GB,
    stream_bytes=GB,
)
SHARD = GB


def disks(monkeypatch: pytest.MonkeyPatch, *, free: dict[str, int]) -> None:
    """Give folders free room by the last name of their path; each is a disk of its own."""
    plain = os.stat

    def usage(path: Any) -> Usage:
        return Usage(0, 0, free[Path(path).name])

    def stat(path: Any, **others: Any) -> Any:
        found = plain(path, **others)
        names = list(free)
        if isinstance(path, Path) and path.name in names:
            values = list(found[:10])
            values[2] = names.index(path.name)
            return os.stat_result(values)
        return found

    monkeypatch.setattr(shutil, "disk_usage", usage)
    monkeypatch.setattr(os, "stat", stat)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    return tmp_path


def test_a_new_or_an_empty_folder_will_do(tmp_path: Path) -> None:
    check_output(tmp_path / "a" / "b")
    check_output(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is not empty; name another one"):
        check_output(tmp_path)
    with pytest.raises(OutputError, match="is a file; name a folder"):
        check_output(tmp_path / "file")
    with pytest.raises(OutputError, match=f"cannot be made: {tmp_path}/file is a file"):
        check_output(tmp_path / "file" / "a" / "b")


def test_room_is_that_of_the_disk_the_output_will_be_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disks(monkeypatch, free={"here": 3 * GB, "there": 9 * GB})
    check_room(folder / "here" / "new" / "out", 3 * GB)
    check_room(folder / "there" / "out", 9 * GB)
    with pytest.raises(OutputError, match=r"needs 3.50 GB, and .*here has 3.00 GB free"):
        check_room(folder / "here" / "out", 3_500_000_000)


@pytest.mark.parametrize(("free", "fits"), [(10 * GB, True), (10 * GB - 1, False)])
def test_a_journal_takes_room_beside_the_output_and_one_more_shard(
    free: int, fits: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disks(monkeypatch, free={"here": free, "there": 0})
    destination = Destination(folder / "here" / "out")
    assert room_for_journal(destination, ESTIMATE, max_shard_bytes=SHARD) == fits
    # A shard is never larger than all there is.
    huge = room_for_journal(destination, ESTIMATE, max_shard_bytes=100 * GB)
    assert not huge
    disks(monkeypatch, free={"here": 13 * GB, "there": 0})
    assert room_for_journal(destination, ESTIMATE, max_shard_bytes=100 * GB)


@pytest.mark.parametrize(
    ("here", "there", "fits"),
    [(8 * GB, 2 * GB, True), (8 * GB - 1, 2 * GB, False), (8 * GB, 2 * GB - 1, False)],
)
def test_streams_on_another_disk_take_room_there(
    here: int, there: int, fits: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disks(monkeypatch, free={"here": here, "there": there})
    destination = Destination(folder / "here" / "out", work_dir=folder / "there")
    assert room_for_journal(destination, ESTIMATE, max_shard_bytes=SHARD) == fits


def test_a_run_that_keeps_none_needs_no_room_for_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    disks(monkeypatch, free={"here": 100 * GB, "there": 0})
    none = replace(ESTIMATE, journal_bytes=0)
    destination = Destination(folder / "here" / "out")
    assert not room_for_journal(destination, none, max_shard_bytes=SHARD)
    # Streams that must live on the disk have no other place to go.
    disks(monkeypatch, free={"here": 9 * GB, "there": 0})
    must = replace(ESTIMATE, streams_on_disk=True)
    with pytest.raises(OutputError, match=r"need 10.00 GB \(2.00 GB of them .* has 9.00 GB free"):
        room_for_journal(destination, must, max_shard_bytes=SHARD)


@pytest.mark.parametrize("name", ["b" * 300, "b" * 250, "a\0b"])
def test_names_that_no_folder_can_have_are_refused(name: str, tmp_path: Path) -> None:
    for check in (check_name, check_output):
        with pytest.raises(OutputError, match="cannot be made"):
            check(tmp_path / name)
    check_name(tmp_path / ("b" * 200))
