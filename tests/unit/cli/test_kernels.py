from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import Command


@pytest.fixture
def out(autoround: Command, model: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    done = autoround("quantize", model, "--recipe", "rtn", "--group-size", 32, "-o", folder)
    assert done.code == 0
    return folder


def test_kernels_says_what_runs_what_and_why(autoround: Command, out: Path) -> None:
    done = autoround("kernels", out, "--device", "cpu")
    assert (done.code, done.err) == (0, "")
    assert "W4 g32 sym: 14 layers" in done.out
    assert "chosen" in done.out
    assert "triton" in done.out
    assert "for cuda, xpu only" in done.out
    named = autoround("kernels", out, "--device", "cpu", "--backend", "torch")
    assert "on cpu: torch" in named.out
    assert "not: torch was asked for" in named.out


def test_kernels_lists_all_there_are(autoround: Command) -> None:
    done = autoround("kernels")
    assert done.code == 0
    assert all(name in done.out for name in ("native", "torch", "triton", "marlin", "ark"))


@pytest.mark.parametrize("name", ["./gone", "MODEL"])
def test_what_has_no_packed_layers(autoround: Command, model: Path, name: str) -> None:
    done = autoround("kernels", model if name == "MODEL" else name)
    assert done.code == 4
    assert "Traceback" not in done.err
