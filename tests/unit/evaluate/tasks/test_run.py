from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from autoround.errors import DataError, ModelError, UsageError
from autoround.evaluate.tasks.run import TaskOptions, run_tasks, split_tasks
from autoround.types import Scheme

from ....tiny import make_tokenizer
from ....tiny_quantized import write_quantized

ROWS = [
    {"question": "what?", "choices": ["this", "that thing"], "answer": 0},
    {"question": "who?", "choices": ["you", "me", "them"], "answer": 2},
    {"question": "where?", "choices": ["here", "there"], "answer": 1},
]


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "some.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def test_a_quantized_model_beside_its_original(
    checkpoint: Callable[[str], Path], questions: Path
) -> None:
    model = checkpoint("llama")
    calls: list[tuple[int, int]] = []
    (both,) = run_tasks(
        model,
        [str(questions)],
        model,
        options=TaskOptions(device="cpu"),
        on_answer=lambda *x: calls.append(x),
    )
    assert (both.task, both.count, both.scorer) == ("some", 3, "autoround")
    for metric in both.metrics:
        assert metric.value == metric.original
        assert (metric.lost, metric.gained) == (0, 0)
    assert both.questions == both.original_questions
    assert calls == [(0, 0), (7, 7), (0, 0), (7, 7)]


def test_packed_folders_are_scored_as_their_weights_say(
    checkpoint: Callable[[str], Path], tmp_path: Path, questions: Path
) -> None:
    out = tmp_path / "packed"
    write_quantized(checkpoint("llama"), out, lambda name: Scheme(2, 32, sym=True))
    make_tokenizer().save_pretrained(out)
    options = TaskOptions(limit=2, device="cpu", batch_size=1)
    (score,) = run_tasks(out, [str(questions)], options=options)
    assert score.count == 2
    assert score.metrics[0].original is None
    options = TaskOptions(limit=2, device="cpu")
    (original,) = run_tasks(checkpoint("llama"), [str(questions)], options=options)
    # Two bits are not the weights of before, and not far from them.
    for question, other in zip(score.questions, original.questions, strict=True):
        for after, before in zip(question.log_likelihoods, other.log_likelihoods, strict=True):
            assert after != before
            assert abs(after - before) < abs(before)


def test_tasks_are_files_of_questions_and_names() -> None:
    assert split_tasks(["a.jsonl, arc_easy", "t.yaml"]) == (
        [Path("a.jsonl")],
        ["arc_easy", "t.yaml"],
    )
    with pytest.raises(UsageError, match="names no task"):
        split_tasks([","])
    with pytest.raises(UsageError, match="twice"):
        split_tasks(["x/a.jsonl,a"])


def test_mistakes_are_told_before_a_model_is_loaded(questions: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        run_tasks("./gone", [str(tmp_path / "no.jsonl")], options=TaskOptions())
    with pytest.raises(UsageError, match="without solved ones"):
        run_tasks("./gone", [str(questions)], options=TaskOptions(shots=1))
    with pytest.raises(ModelError, match="does not exist"):
        run_tasks("./gone", [str(questions)], options=TaskOptions())
