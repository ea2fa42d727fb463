"""Libraries kept for the next process: whole ones of this user's, and no others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from autoround_backends._kernel_cache import DIGEST, is_whole, keep, open_cache, why_not_trusted


@pytest.fixture
def library(tmp_path: Path) -> Path:
    built, place = tmp_path / "built.so", tmp_path / "kernels" / "k.so"
    assert open_cache(place.parent) == ""
    built.write_bytes(b"code" * 1000)
    keep(built, place)
    assert not built.exists()
    return place


def test_what_is_kept_is_whole_and_private(library: Path) -> None:
    assert is_whole(library)
    assert sorted(p.name for p in library.parent.iterdir()) == ["k.so", "k.so" + DIGEST]
    assert {p.stat().st_mode & 0o777 for p in library.parent.iterdir()} == {0o600}
    assert library.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o666, 0o602])
def test_what_others_can_write_is_not_believed(mode: int, library: Path) -> None:
    library.chmod(mode)
    assert not is_whole(library)
    assert "can be written by other users" in why_not_trusted(library)


def test_a_group_of_ones_own_may_write(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library.chmod(0o660)
    assert why_not_trusted(library) == ""
    monkeypatch.setattr(os, "getegid", lambda: library.stat().st_gid + 1)
    assert "other users" in why_not_trusted(library)


def test_what_belongs_to_another_user_is_not_believed(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = library.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    expected = "" if owner == 0 else "belongs to another user"
    assert expected in why_not_trusted(library)
    if owner == 0:
        os.chown(library, 4242, -1)
        assert "belongs to another user" in why_not_trusted(library)
        assert not is_whole(library)


@pytest.mark.parametrize("cut", [0, 1, 2000, 3999])
def test_a_part_is_not_whole(cut: int, library: Path) -> None:
    library.write_bytes(library.read_bytes()[:cut])
    assert not is_whole(library)


def test_a_digest_of_something_else_does_not_do(library: Path) -> None:
    library.with_name(library.name + DIGEST).write_text("0" * 64)
    assert not is_whole(library)
    library.with_name(library.name + DIGEST).write_bytes(b"\xff\xfe")
    assert not is_whole(library)


def test_a_folder_that_is_none_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "file" in open_cache(tmp_path / "file" / "kernels")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    assert "other users" in open_cache(tmp_path / "open")
