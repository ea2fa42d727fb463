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
        (["bench", "./gone"], 4),
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
