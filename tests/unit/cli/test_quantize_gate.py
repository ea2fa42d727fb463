"""``quantize --gate``, and what it prints and leaves, for people and for scripts."""

from __future__ import annotations

import json
from pathlib import Path

from autoround.model.files.gate_mark import MARK

from .conftest import Command

QUICK = ["--recipe", "rtn", "--group-size", 32, "--device", "cpu", "--set", "evaluation.seqlen=32"]


def test_a_gate_that_is_met_is_in_the_plan_and_at_the_end(
    autoround: Command, model: Path, text: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = autoround(
        "quantize", model, *QUICK, "-o", out, "--gate", "ppl<=2x,kl<=1", "--eval-text", text
    )
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert f"gate         ppl<=2x,kl<=1, on at most 16384 tokens of {text}" in lines
    assert f"gate passed: ppl<=2x,kl<=1, {out}" in lines
    # Measured once: the gate's figures are those of --eval-text.
    assert sum(line.startswith("perplexity of the quantized") for line in lines) == 1
    assert lines[-1].split()[0] == "serve"


def test_a_gate_that_is_missed_ends_with_its_own_code_and_a_mark(
    autoround: Command, model: Path, text: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    gate = ["--gate", "kl<=0.00000001", "--eval-text", text]
    done = autoround("quantize", model, *QUICK, "-o", out, *gate)
    assert done.code == 10
    error, hint = done.err.splitlines()
    assert error.startswith("error: the gate is missed: KL divergence is ")
    assert hint == f"{out} is complete"
    # Nothing is recommended with what is not good enough.
    assert "autoround generate" not in done.out
    assert (out / MARK).exists()
    generated = autoround("generate", out, "the fox", "--max-new-tokens", 2, "--device", "cpu")
    assert generated.code == 0
    assert generated.err.splitlines()[0].startswith(f"warning: {out} missed the gate of its run")
    assert f"note: {out} missed the gate of its run" in autoround("inspect", out).out
    converted = tmp_path / "awq"
    assert autoround("convert", out, "--to", "auto_gptq", "-o", converted).code == 0
    assert (converted / MARK).exists()
    assert not (converted / "evaluation.json").exists()


def test_a_script_gets_the_verdict_as_json(
    autoround: Command, model: Path, text: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    asked = ["--eval-text", text, "--json", "--prompt", "the fox"]
    done = autoround("quantize", model, *QUICK, "-o", out, *asked, "--gate", "kl<=0.00000001")
    assert done.code == 10
    values = json.loads(done.out)
    (verdict,) = values["gate"]
    assert (verdict["passed"], verdict["gate"]) == (False, "kl<=1e-08")
    assert verdict["figures"] == values["evaluation"]
    assert values["output_dir"] == str(out)
    assert values["next"] == []
    assert isinstance(values["generated"], str)
    assert "tune: 2 blocks on cpu" in done.err.splitlines()


def test_quiet_prints_errors_and_results_alone(
    autoround: Command, model: Path, text: Path, tmp_path: Path
) -> None:
    done = autoround("quantize", model, *QUICK, "-o", tmp_path / "out", "--quiet")
    assert (done.code, done.out, done.err) == (0, "", "")
    both = autoround("quantize", model, *QUICK, "-o", tmp_path / "2", "--quiet", "--verbose")
    assert both.code == 2


def test_eval_keeps_its_figures_in_the_folder(
    autoround: Command, model: Path, text: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = autoround("quantize", model, *QUICK, "-o", out, "--eval-text", text)
    assert done.code == 0
    figures = json.loads((out / "evaluation.json").read_text())
    names = ["perplexity", "tokens", "reference_perplexity", "kl", "top1_agreement", "text"]
    assert list(figures) == [*names, "original", "seqlen"]
    assert figures["text"] == str(text)


def test_a_bad_gate_is_refused_before_anything_is_done(
    autoround: Command, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = autoround("quantize", model, *QUICK, "-o", out, "--gate", "ppl<1.05x")
    assert done.code == 3
    assert "--gate ppl<1.05x: evaluation.gate: expected none, or bounds" in done.err
    assert "ppl is bounded by <=, not <" in done.err
    assert not out.exists()
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("extends: rtn\nevaluation:\n  gate: kl<=x\n")
    done = autoround("quantize", model, "--recipe", recipe, "-o", out)
    assert done.code == 3
    assert f"{recipe}:3: evaluation.gate: " in done.err
