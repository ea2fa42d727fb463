from __future__ import annotations

import json
from pathlib import Path

import pytest

from autoround.report import saved

from ...tiny import make_byte_tokenizer, make_model
from .conftest import Command

SHORT = ("--nsamples", 4, "--seqlen", 16, "--group-size", 32)
SCORED = ("--set", "evaluation.max_tokens=64", "--set", "evaluation.seqlen=32")


def test_a_run_writes_a_page_that_is_written_again_by_hand(
    autoround: Command, model: Path, text: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    made = autoround(
        *("quantize", model, "--recipe", "rtn", *SHORT, *SCORED, "--eval-text", text, "-o", out),
        *("--prompt", "the quick"),
    )
    assert made.code == 0, made.err
    page = (out / "report.html").read_text(encoding="utf-8")
    scores = json.loads((out / "evaluation.json").read_text())
    assert f"→ {scores['perplexity']:.3f}" in page
    assert "Prompt: the quick" in page
    measured = json.loads((out / "run.json").read_text())
    assert measured["predicted_bytes"] > 0
    # For the model card: engines that were asked about, each with its evidence.
    assert {"vllm", "transformers"} <= {finding["engine"] for finding in measured["serving"]}
    (out / "report.html").unlink()
    again = autoround("report", out)
    names = [out / name for name in ("report.html", "README.md")]
    assert (again.code, again.out) == (0, "".join(f"written      {name}\n" for name in names))
    card = names[1].read_text(encoding="utf-8")
    assert f" | {scores['perplexity']:.3f} | " in card
    assert (out / "report.html").read_text(encoding="utf-8") == page


def test_each_format_has_its_own(autoround: Command, tmp_path: Path) -> None:
    out, model = tmp_path / "both", tmp_path / "model"
    make_model("llama").save_pretrained(model)
    make_byte_tokenizer().save_pretrained(model)
    formats = ("--format", "auto_round,gguf:q4_0")
    made = autoround("quantize", model, "--recipe", "rtn", *SHORT, *formats, "-o", out)
    assert made.code == 0, made.err
    pages = {path.parent.name: path for path in out.glob("*/report.html")}
    assert set(pages) == {"auto_round", "gguf-q4_0"}
    assert "format gguf:q4_0" in pages["gguf-q4_0"].read_text(encoding="utf-8")
    done = autoround("report", out)
    assert done.out.count("written") == 4


def test_what_is_no_output_is_refused(autoround: Command, tmp_path: Path) -> None:
    done = autoround("report", tmp_path)
    assert done.code == 4
    assert "has no plan.json" in done.err


def test_a_report_that_fails_does_not_take_the_model_along(
    autoround: Command, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(run: object) -> str:
        raise ZeroDivisionError("a page")

    out = tmp_path / "out"
    monkeypatch.setattr(saved, "report_page", fail)
    made = autoround("quantize", model, "--recipe", "rtn", *SHORT, "-o", out)
    assert made.code == 0
    assert "warning: no report of auto_round: a page; the model itself is whole" in made.out
    assert {"config.json", "model.safetensors", "run.json"} <= {p.name for p in out.iterdir()}
    assert not list(out.glob("report.html*"))


def test_scores_are_kept_where_that_is_asked_for(
    autoround: Command, model: Path, text: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    autoround("quantize", model, "--recipe", "rtn", *SHORT, "-o", out)
    words = ("--text", text, "--seqlen", 32, "--max-tokens", 64, "--original", model)
    plain = autoround("eval", out, *words)
    assert plain.code == 0, plain.err
    assert not (out / "evaluation.json").exists()
    refused = autoround("eval", model, *words, "--save")
    assert refused.code == 2
    assert "leave --save out" in refused.err
    saving = autoround("eval", out, *words, "--save", "--json")
    assert json.loads(saving.out)["kl"] == json.loads((out / "evaluation.json").read_text())["kl"]
    assert "KL divergence" in (out / "report.html").read_text(encoding="utf-8")
