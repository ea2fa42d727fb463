"""The checker that only storage changes the disk."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "check_files.py"


def check(folder: Path, *roots: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(TOOL), *roots],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=folder,
    )


@pytest.mark.parametrize(
    "line",
    [
        "os.replace(a, b)",
        "os.fsync(descriptor)",
        "os.open(path, os.O_RDWR)",
        'path.write_text("x")',
        "path.write_bytes(b'')",
        'open(path, "w")',
        'open(path, mode="ab")',
        'path.open("r+b")',
        'path.open(mode="x")',
        "path.mkdir(parents=True)",
        "path.unlink(missing_ok=True)",
        "path.rename(other)",
        "path.replace(other)",
        "shutil.rmtree(folder)",
        "tempfile.TemporaryDirectory()",
        "from tempfile import mkstemp",
        "from os import replace, path",
        "torch.save(x, path)",
        "np.save(path, x)",
        "array.tofile(file)",
        "save_file(tensors, path)",
        "model.save_pretrained(folder)",
        "f(lambda: save_file(tensors, path))",
        "write_by(path, lambda p: os.replace(p, path))",
    ],
)
def test_a_change_of_the_disk_is_found(line: str, tmp_path: Path) -> None:
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "module.py").write_text(f"x = 1\n{line}\n")
    done = check(tmp_path, "room")
    assert done.returncode == 1
    assert "room/module.py:2: " in done.stdout
    assert done.stdout.endswith("1 files, 1 violations\n")


@pytest.mark.parametrize(
    "line",
    [
        "open(path)",
        'open(path, "rb")',
        'path.open("rb")',
        "Image.open(path)",
        "text.replace('a', 'b')",
        "replace(plan, blocks=())",
        "os.path.exists(path)",
        "shutil.disk_usage(path)",
        "device.open(0)",
        "replace_synced(path, lambda aside: save_file(tensors, aside))",
        "write_by(folder, tokenizer.save_pretrained)",
        "# os.replace(a, b)",
    ],
)
def test_reading_is_free(line: str, tmp_path: Path) -> None:
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "module.py").write_text(f"{line}\n")
    assert check(tmp_path, "room").returncode == 0


def test_storage_may(tmp_path: Path) -> None:
    room = tmp_path / "autoround" / "storage"
    room.mkdir(parents=True)
    (room / "files.py").write_text("os.replace(a, b)\n")
    assert check(tmp_path, "autoround").returncode == 0


def test_nothing_to_check_is_an_error(tmp_path: Path) -> None:
    assert check(tmp_path, "none").returncode == 2


def test_the_package_keeps_to_it() -> None:
    done = check(ROOT, "autoround", "backends")
    assert done.returncode == 0, done.stdout
