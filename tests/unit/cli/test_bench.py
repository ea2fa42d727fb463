from __future__ import annotations

import json
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


def test_bench_measures_a_model_and_its_original(
    autoround: Command, out: Path, model: Path
) -> None:
    sizes = ("--prompt-tokens", 8, "--new-tokens", 4, "--device", "cpu")
    done = autoround("bench", out, "--original", model, *sizes)
    assert (done.code, done.err) == (0, "")
    for word in ("prefill", "decode", "tokens/s", "MB in memory", "unquantized", "against"):
        assert word in done.out
    done = autoround("bench", out, "--backend", "torch", "--json", *sizes)
    (found,) = json.loads(done.out)
    assert found["kernels"] == "torch (14)"
    assert found["decode"] > 0 < found["prefill"]
    assert 0 < found["weight_bytes"] < found["peak_bytes"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["kernels", "./gone"], 4),
        (["kernels", "MODEL"], 4),
        (["bench", "MODEL", "--backend", "abacus"], 2),
        (["bench", "MODEL", "--new-tokens", "0"], 2),
    ],
)
def test_what_cannot_be_done(
    autoround: Command, model: Path, arguments: list[str], code: int
) -> None:
    done = autoround(*(model if word == "MODEL" else word for word in arguments))
    assert done.code == code
    assert "Traceback" not in done.err
