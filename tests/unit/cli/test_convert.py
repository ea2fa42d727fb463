from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import Command


@pytest.fixture
def quantized(autoround: Command, model: Path, tmp_path: Path) -> Path:
    out = tmp_path / "out"
    done = autoround("quantize", model, "--recipe", "rtn", "--group-size", 32, "-o", out)
    assert done.code == 0
    return out


def test_formats_are_converted_bit_for_bit(
    autoround: Command, quantized: Path, tmp_path: Path
) -> None:
    target = tmp_path / "converted"
    done = autoround("convert", quantized, "--to", "auto_gptq, auto_awq,auto_gptq", "-o", target)
    assert (done.code, done.err) == (0, "")
    (line,) = done.out.splitlines()
    assert line.startswith("auto-round to auto_gptq, auto_awq: 14 of 14 layers equal bit for bit")
    methods = {
        folder.name: json.loads((folder / "config.json").read_text())["quantization_config"]
        for folder in target.iterdir()
        if folder.is_dir()
    }
    assert {name: config["quant_method"] for name, config in methods.items()} == {
        "auto_gptq": "gptq",
        "auto_awq": "awq",
    }


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["./gone", "--to", "auto_awq"], 4),
        (["MODEL", "--to", "auto_awq"], 4),
        (["QUANTIZED", "--to", "abacus"], 7),
    ],
)
def test_what_cannot_be_converted(
    autoround: Command,
    model: Path,
    quantized: Path,
    tmp_path: Path,
    arguments: list[str],
    code: int,
) -> None:
    places = {"MODEL": str(model), "QUANTIZED": str(quantized)}
    done = autoround(
        "convert", *(places.get(word, word) for word in arguments), "-o", tmp_path / "converted"
    )
    assert done.code == code
    assert "Traceback" not in done.err
    assert not (tmp_path / "converted").exists()


def test_both_options_are_needed(autoround: Command, quantized: Path, tmp_path: Path) -> None:
    assert autoround("convert", quantized, "--to", "auto_awq").code == 2
    assert autoround("convert", quantized, "-o", tmp_path / "converted").code == 2


def test_a_dry_run_shows_and_writes_nothing(
    autoround: Command, quantized: Path, tmp_path: Path
) -> None:
    before = sorted(tmp_path.rglob("*"))
    done = autoround("convert", quantized, "--to", "mlx,auto_awq", "--dry-run")
    assert (done.code, done.err) == (0, "")
    assert "to mlx: 14 layers, packing auto_round:auto_gptq -> mlx" in done.out
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_ends_as_the_conversion_would(
    autoround: Command, quantized: Path, tmp_path: Path
) -> None:
    words = ("convert", quantized, "--to", "mlx,gguf:q4_0", "-o", tmp_path / "converted")
    dry, real = autoround(*words, "--dry-run", "--json"), autoround(*words)
    assert (dry.code, dry.err) == (real.code, real.err)
    assert dry.code == 7
    values = json.loads(dry.out)
    assert values["refused"] is True
    assert [outlook["format"] for outlook in values["formats"]] == ["mlx", "gguf:q4_0"]
    assert not (tmp_path / "converted").exists()


def test_json_is_of_a_dry_run(autoround: Command, quantized: Path, tmp_path: Path) -> None:
    done = autoround("convert", quantized, "--to", "mlx", "-o", tmp_path / "x", "--json")
    assert done.code == 2
    assert "--dry-run" in done.err
