from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import Command

SHORT = ["--seqlen", "32", "--max-tokens", "96"]


@pytest.fixture
def quantized(autoround: Command, model: Path, tmp_path: Path) -> Path:
    out = tmp_path / "out"
    done = autoround("quantize", model, "--recipe", "rtn", "--group-size", 32, "-o", out)
    assert done.code == 0
    return out


def test_a_perplexity(autoround: Command, quantized: Path, text: Path) -> None:
    done = autoround("eval", quantized, "--text", text, *SHORT)
    assert done.code == 0
    assert done.err == "eval: model loaded; 3 windows of text to score\n"
    words = done.out.split()
    assert words[0] == "perplexity"
    assert words[2:] == ["over", "93", "tokens"]
    # A random model is about as good as a guess among 128 tokens.
    assert 40 < float(words[1]) < 1000


def test_the_embedded_text_is_the_default(autoround: Command, quantized: Path) -> None:
    done = autoround("eval", quantized, "--seqlen", 32, "--max_tokens", 64)
    assert done.code == 0
    assert done.err == "eval: model loaded; 2 windows of text to score\n"
    assert done.out.endswith("over 62 tokens\n")


def test_beside_the_original(autoround: Command, quantized: Path, model: Path, text: Path) -> None:
    arguments = ["eval", quantized, "--text", text, "--original", model, *SHORT]
    found = json.loads(autoround(*arguments, "--json").out)
    assert found.keys() == {"perplexity", "tokens", "reference_perplexity", "kl", "top1_agreement"}
    assert 0 < found["kl"] < 1
    assert 0 < found["top1_agreement"] <= 1
    assert found["tokens"] == 93
    lines = autoround(*arguments).out.splitlines()
    assert lines[0].split()[-1] == f"{found['reference_perplexity']:.3f}"
    assert lines[1].split()[4] == f"{found['perplexity']:.3f}"
    assert f"{found['kl']:.4f} nats per token" in lines[2]
    assert f"{100 * found['top1_agreement']:.1f} %" in lines[3]


def test_the_original_has_no_distance_from_itself(
    autoround: Command, model: Path, text: Path
) -> None:
    done = autoround("eval", model, "--text", text, "--original", model, *SHORT, "--json")
    found = json.loads(done.out)
    assert found["kl"] == 0
    assert found["top1_agreement"] == 1
    assert found["perplexity"] == found["reference_perplexity"]


def test_json_without_an_original(autoround: Command, model: Path, text: Path) -> None:
    found = json.loads(autoround("eval", model, "--text", text, *SHORT, "--json").out)
    assert found["tokens"] == 93
    assert found["kl"] is found["reference_perplexity"] is found["top1_agreement"] is None


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "some.jsonl"
    rows = [{"question": "what?", "choices": ["this", "that"], "answer": i % 2} for i in range(4)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_tasks_beside_the_original_are_kept(
    autoround: Command, quantized: Path, model: Path, questions: Path, tmp_path: Path
) -> None:
    lines = tmp_path / "lines.jsonl"
    options = ["--tasks", questions, "--original", model, "--save", "--save-questions", lines]
    done = autoround("eval", quantized, *options)
    assert done.code == 0, done.err
    assert done.err.startswith("eval: model loaded\n")
    printed = done.out.splitlines()
    # The same question is asked four times, and its answer is the other one each time.
    assert printed[0] == "some: 4 questions"
    assert printed[1].startswith("  acc       0.5000 ± 0.2887  original 0.5000 ± 0.2887  lost ")
    assert printed[-1].startswith("scored by autoround, run by torch ")
    kept = json.loads((quantized / "evaluation.json").read_text())
    assert kept.keys() == {"tasks"}
    assert kept["tasks"][0]["metrics"][0]["original"] == 0.5
    assert "0.5000 ± 0.2887" in (quantized / "report.html").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [row["id"] for row in rows] == ["0", "1", "2", "3"]
    assert all(len(row["original"]["log_likelihoods"]) == 2 for row in rows)


def test_tasks_and_a_text_as_one_object(
    autoround: Command, model: Path, questions: Path, text: Path
) -> None:
    alone = autoround("eval", model, "--tasks", questions, "--limit", 3, "--json")
    (task,) = json.loads(alone.out)["tasks"]
    assert (task["task"], task["questions"]) == ("some", 3)
    both = autoround("eval", model, "--tasks", questions, "--text", text, *SHORT, "--json")
    values = json.loads(both.out)
    assert values["tokens"] == 93
    assert values["tasks"][0]["questions"] == 4


def test_options_of_tasks_need_a_task(autoround: Command, model: Path, questions: Path) -> None:
    done = autoround("eval", model, "--limit", 3)
    assert done.code == 2
    assert done.err == "error: --limit is an option of --tasks; name tasks, or leave it out\n"
    assert autoround("eval", model, "--tasks", questions, "--engine", "none").code == 2
    assert autoround("eval", model, "--tasks", "gone.jsonl").code == 5


def test_what_cannot_be_scored(autoround: Command, model: Path, tmp_path: Path) -> None:
    assert autoround("eval", "./gone").code == 4
    assert autoround("eval", model, "--text", tmp_path / "gone.txt").code == 5
    assert autoround("eval", model, "--seqlen", 1).code == 2
    assert autoround("eval", model, "--original", "./gone", *SHORT).code == 4
