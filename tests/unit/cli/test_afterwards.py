"""What `quantize --prompt` shows and keeps of the two models, and when the original is loaded."""
# Tests: autoround/cli/_afterwards.py

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from autoround.evaluate import models
from autoround.evaluate.generate import generate

from .conftest import Command

QUICK = (
    *("--recipe", "rtn", "--group-size", 32, "--device", "cpu", "--set", "evaluation.seqlen=32"),
    *("--set", "evaluation.max_tokens=64", "--prompt", "the fox"),
)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of the folders that are loaded dense from here on."""
    names: list[str] = []

    def watch(model: str | Path, **options: Any) -> Any:
        names.append(Path(model).name)
        return load_any(model, **options)

    load_any = models.load_any
    for place in ("evaluate.models", "evaluate.compare", "gated"):
        monkeypatch.setattr(f"autoround.{place}.load_any", watch)
    return names


def test_the_original_writes_while_it_is_scored(
    autoround: Command, model: Path, text: Path, tmp_path: Path, loaded: list[str]
) -> None:
    out = tmp_path / "out"
    done = autoround("quantize", model, *QUICK, "--bits", 2, "-o", out, "--eval-text", text)
    assert (done.code, done.err) == (0, "")
    assert loaded == [model.name, "out"]
    (kept,) = json.loads((out / "generations.json").read_text())
    assert kept["original"] == generate(model, "the fox", max_new_tokens=32, device="cpu")
    assert kept["quantized"] == generate(out, "the fox", max_new_tokens=32, device="cpu")
    token = kept["difference"]["token"]
    lines = done.out.splitlines()
    assert "eval: reloading the original, then the result" in lines
    assert f"the two texts differ: at token {token + 1}" in lines
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count("<mark>") == 2


def test_the_original_of_a_gate_writes_too(
    autoround: Command, model: Path, text: Path, tmp_path: Path, loaded: list[str]
) -> None:
    out = tmp_path / "out"
    asked = ("--gate", "ppl<=9x", "--eval-text", text, "--json")
    done = autoround("quantize", model, *QUICK, "--bits", 8, "-o", out, *asked)
    assert done.code == 0, done.err
    values = json.loads(done.out)
    assert values["generated_by_original"] == generate(
        model, "the fox", max_new_tokens=32, device="cpu"
    )
    assert loaded[:2] == [model.name, model.name]


def test_the_original_is_not_loaded_for_a_text_alone(
    autoround: Command, model: Path, tmp_path: Path, loaded: list[str]
) -> None:
    out = tmp_path / "out"
    done = autoround("quantize", model, *QUICK, "-o", out, "--json")
    assert done.code == 0, done.err
    assert loaded == []
    values = json.loads(done.out)
    assert isinstance(values["generated"], str)
    assert values["generated_by_original"] is None
    (kept,) = json.loads((out / "generations.json").read_text())
    assert set(kept) == {"prompt", "quantized"}


def test_an_empty_prompt_is_refused_before_the_run(
    autoround: Command, model: Path, tmp_path: Path
) -> None:
    done = autoround("quantize", model, *QUICK, "--prompt", "", "-o", tmp_path / "out")
    assert done.code == 2
    assert "--prompt is empty" in done.err
    assert not (tmp_path / "out").exists()
