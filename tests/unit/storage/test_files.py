"""Writing, renaming and deleting: what the system says is passed on, and nothing is half-done."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest

from autoround.storage import files
from autoround.storage.files import (
    WritableFile,
    copy_file,
    link,
    make_folder,
    map_file,
    open_to_lock,
    remove_file,
    remove_folder,
    remove_tree,
    replace,
    reserve,
    temporary_folder,
    write_by,
    write_file,
)

from ... import faults


def test_text_is_utf_8_and_bytes_are_as_they_are(tmp_path: Path) -> None:
    write_file(tmp_path / "a", "σ\n")
    write_file(tmp_path / "a", "≤\n")
    write_file(tmp_path / "b", b"\xff\x00")
    assert (tmp_path / "a").read_bytes() == "≤\n".encode()
    assert (tmp_path / "b").read_bytes() == b"\xff\x00"


@pytest.mark.parametrize("most", [1, 7, 100])
def test_a_system_that_writes_a_part_at_a_time_is_asked_again(most: int, tmp_path: Path) -> None:
    def act(number: int, name: str, call: Any, args: Any) -> Any:
        return call(args[0], args[1][:most]) if name == "write" else call(*args)

    data = bytes(range(256))
    with faults.acting(act) as seen:
        write_file(tmp_path / "a", data)
    assert (tmp_path / "a").read_bytes() == data
    assert seen.count("write") == -(-256 // most)


def test_bytes_go_to_their_place_in_whatever_order(tmp_path: Path) -> None:
    with WritableFile(tmp_path / "a") as file:
        file.write(b"ab")
        file.write_at(b"gh", 6)
        assert file.read_at(8, 0) == b"ab\0\0\0\0gh"
        file.write_at(b"cdef", 2)
    assert (tmp_path / "a").read_bytes() == b"abcdefgh"


def test_a_system_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    def act(number: int, name: str, call: Any, args: Any) -> Any:
        return 0 if name == "write" else call(*args)

    with faults.acting(act), pytest.raises(OSError, match="nothing was written"):
        write_file(tmp_path / "a", b"x")


def test_a_file_can_be_read_while_it_is_written(tmp_path: Path) -> None:
    with WritableFile(tmp_path / "a") as file:
        file.write(bytearray(b"hello"))
        assert file.read_at(3, 1) == b"ell"
        file.write(memoryview(b" world"))
        file.sync()
        descriptor = file.fileno()
    assert (tmp_path / "a").read_bytes() == b"hello world"
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(descriptor)
    file.close()
    with pytest.raises(ValueError, match="closed"):
        file.write(b"x")


def test_a_file_that_is_kept_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        WritableFile(tmp_path / "a", keep=True)
    write_file(tmp_path / "a", b"12345")
    with WritableFile(tmp_path / "a", keep=True) as file:
        file.write(b"67")
    assert (tmp_path / "a").read_bytes() == b"67345"


def test_a_file_that_is_forgotten_is_closed(tmp_path: Path) -> None:
    file = WritableFile(tmp_path / "a")
    descriptor = file.fileno()
    del file
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(descriptor)


def test_a_file_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "CHUNK", 7)
    (tmp_path / "a").write_bytes(bytes(range(100)))
    copy_file(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == bytes(range(100))


def test_a_reserved_file_has_its_size_and_is_mapped(tmp_path: Path) -> None:
    reserve(tmp_path / "a", 100)
    view = map_file(tmp_path / "a", 100)
    view[:3] = b"abc"
    view.close()
    calls = faults.count(lambda: reserve(tmp_path / "a", 100))
    assert calls == ["open"]
    assert (tmp_path / "a").read_bytes() == b"abc" + bytes(97)


def test_a_folder_is_made_with_those_above_it(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b" / "c")
    make_folder(tmp_path / "a" / "b" / "c")
    with pytest.raises(FileExistsError):
        make_folder(tmp_path / "a", new=True)
    write_file(tmp_path / "file", b"")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OSError, match="file"):
            make_folder(path)


def test_a_temporary_folder_is_private_and_goes(tmp_path: Path) -> None:
    with temporary_folder(tmp_path / "above", "x-") as one, temporary_folder(None, "x-") as other:
        assert one.parent == tmp_path / "above"
        assert stat.S_IMODE(one.stat().st_mode) == 0o700
        assert one.name.startswith("x-")
        assert other.is_dir()
        write_file(one / "a", b"x")
    assert not one.exists()
    assert not other.exists()


def test_names_change_and_go(tmp_path: Path) -> None:
    write_file(tmp_path / "a", b"new")
    write_file(tmp_path / "b", b"old")
    replace(tmp_path / "a", tmp_path / "b")
    link(tmp_path / "b", tmp_path / "c")
    assert (tmp_path / "c").read_bytes() == b"new"
    remove_file(tmp_path / "c")
    remove_file(tmp_path / "c")
    make_folder(tmp_path / "d" / "e")
    with pytest.raises(OSError, match="d"):
        remove_folder(tmp_path / "d")
    remove_tree(tmp_path / "d")
    remove_tree(tmp_path / "d")
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_folder_or_a_file_is_opened_to_be_locked(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "lock"):
        os.close(open_to_lock(path))
    assert (tmp_path / "lock").read_bytes() == b""


def test_every_change_can_be_seen(tmp_path: Path) -> None:
    def work() -> None:
        make_folder(tmp_path / "a")
        with WritableFile(tmp_path / "a" / "b") as file:
            file.write(b"x")
            file.sync()
        copy_file(tmp_path / "a" / "b", tmp_path / "c")
        write_by(tmp_path / "d", lambda path: path.write_text("x"))
        reserve(tmp_path / "e", 8)
        replace(tmp_path / "c", tmp_path / "e")
        link(tmp_path / "e", tmp_path / "f")
        remove_file(tmp_path / "f")
        make_folder(tmp_path / "g")
        remove_folder(tmp_path / "g")
        remove_tree(tmp_path / "a")

    seen = faults.count(work)
    assert set(seen) == set(faults.CALLS)
    for number, name in enumerate(seen, start=1):
        if name == "rmtree":
            continue
        for path in tmp_path.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        failing = faults.faulty_disk("failing", at=number)
        with failing, pytest.raises(OSError, match="Input/output"):
            work()
