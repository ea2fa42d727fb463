"""The checker that only backends name kinds of accelerators."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "check_devices.py"


def check(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(TOOL), str(folder)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    "line",
    [
        "torch.cuda.empty_cache()",
        'device = "cuda:0"',
        "def to_xpu(): ...",
        "# faster on NVIDIA",
        'HELP = "auto, cpu or CUDA"',
        "from torch.backends import cudnn",
    ],
)
def test_names_are_found(line: str, tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(f"x = 1\n{line}\n")
    done = check(tmp_path)
    assert done.returncode == 1
    assert f"module.py:2: names a device: {line}" in done.stdout


def test_other_code_passes(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text('device = "cpu"\nruntime.synchronize()\n')
    assert check(tmp_path).returncode == 0


def test_nothing_to_check_is_no_success(tmp_path: Path) -> None:
    assert check(tmp_path).returncode == 2


def test_this_package_names_none() -> None:
    done = check(TOOL.parents[1] / "autoround")
    assert done.returncode == 0, done.stdout
