"""One process at a time holds a file or a folder."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from autoround.errors import OutputError
from autoround.storage.lock import take_lock


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_held_cannot_be_taken_until_it_is_let_go(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "held"
    if kind == "folder":
        path.mkdir()
    descriptor = take_lock(path, tmp_path / "out")
    with pytest.raises(OutputError, match=r"another run is at work on .*/out; wait for it"):
        take_lock(path, tmp_path / "out")
    os.close(descriptor)
    os.close(take_lock(path, tmp_path / "out"))


def test_a_process_that_ends_lets_go(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from autoround.storage.lock import take_lock; "
        "take_lock(Path(sys.argv[1]), Path('x')); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    os.close(take_lock(tmp_path, tmp_path))


def test_what_cannot_be_opened_says_why(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="out cannot be written: .*No such file"):
        take_lock(tmp_path / "none" / "lock", tmp_path / "out")


def test_a_name_that_is_another_file_by_now_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lock"
    original = fcntl.flock

    def late(descriptor: int, how: int) -> None:
        # Another run ends between the two steps, and a third begins.
        path.unlink()
        path.write_text("")
        original(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", late)
    before = set(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    with pytest.raises(OutputError, match="was at work on .*out just now; run the command again"):
        take_lock(path, tmp_path / "out")
    if before is not None:
        assert set(os.listdir("/proc/self/fd")) == before
