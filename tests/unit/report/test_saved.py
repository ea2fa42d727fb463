from __future__ import annotations

import json
from pathlib import Path

import pytest

from autoround.errors import UsageError
from autoround.evaluate.generate import Difference
from autoround.evaluate.tasks.scores import Metric, QuestionScore, TaskScore
from autoround.report.saved import (
    EMBEDDED_TEXT,
    check_saves,
    save_evaluation,
    save_generation,
    save_questions,
    save_tasks,
    write_report,
)
from autoround.types import EvalResult

from ._runs import run_folder, write_folder


def test_a_report_is_written_again_with_the_same_bytes(tmp_path: Path) -> None:
    out = write_folder(tmp_path / "out")
    before = {path.name for path in out.iterdir()}
    first = write_report(out).read_bytes()
    assert write_report(out).read_bytes() == first
    assert {path.name for path in out.iterdir()} == before | {"report.html"}


def test_scores_and_texts_come_into_the_report(tmp_path: Path) -> None:
    out = write_folder(tmp_path / "out", run_folder(evaluation={}))
    assert "Not evaluated." in write_report(out).read_text(encoding="utf-8")
    scores = EvalResult(11.5, 99, 10.0, 0.25, 0.5)
    save_evaluation(out, scores, text=EMBEDDED_TEXT, original="my/model", seqlen=64)
    save_generation(out, "say", "this")
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "10.000 → 11.500" in page
    assert "Prompt: say" in page
    assert json.loads((out / "evaluation.json").read_text()) == {
        **{"perplexity": 11.5, "tokens": 99, "reference_perplexity": 10.0, "kl": 0.25},
        **{"top1_agreement": 0.5, "text": "embedded text that calibration never sees"},
        **{"original": "my/model", "seqlen": 64},
    }


def task_score(name: str, value: float) -> TaskScore:
    """Return the figures of one question."""
    question = QuestionScore("q0", {"acc": value}, (-1.5,))
    return TaskScore(name, (Metric("acc", value, 0.125),), 1, 0, "s", "e", 0, (question,))


def test_tasks_stand_beside_scores_of_a_text_whichever_came_first(tmp_path: Path) -> None:
    out = write_folder(tmp_path / "out", run_folder(evaluation={}))
    save_tasks(out, [task_score("arc", 0.25), task_score("piqa", 0.5)], original="my/model")
    save_evaluation(out, EvalResult(11.5, 99), text=EMBEDDED_TEXT, original=None, seqlen=64)
    save_tasks(out, [task_score("arc", 0.75)], original=None)
    values = json.loads((out / "evaluation.json").read_text())
    assert values["perplexity"] == 11.5
    figures = {x["task"]: (x["metrics"][0]["value"], x["compared_with"]) for x in values["tasks"]}
    assert figures == {"piqa": (0.5, "my/model"), "arc": (0.75, None)}
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "0.7500 ± 0.1250" in page
    assert "0.2500" not in page


def test_questions_are_written_a_line_each(tmp_path: Path) -> None:
    save_questions(tmp_path / "q.jsonl", [task_score("arc", 1.0), task_score("piqa", 0.0)])
    lines = (tmp_path / "q.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"task": "arc", "id": "q0", "acc": 1.0, "log_likelihoods": [-1.5]},
        {"task": "piqa", "id": "q0", "acc": 0.0, "log_likelihoods": [-1.5]},
    ]


def test_texts_of_both_models_are_kept_with_their_difference(tmp_path: Path) -> None:
    out = write_folder(tmp_path / "out")
    difference = Difference(1, (2, 3), (2, 4))
    save_generation(out, "say", "this", original="that", difference=difference)
    assert json.loads((out / "generations.json").read_text()) == [
        {
            **{"prompt": "say", "quantized": "this", "original": "that"},
            "difference": {"token": 1, "original": [2, 3], "quantized": [2, 4]},
        }
    ]
    save_generation(out, "say", "this", original="this")
    assert json.loads((out / "generations.json").read_text())[0]["difference"] is None
    save_generation(out, "say", "this")
    assert json.loads((out / "generations.json").read_text()) == [
        {"prompt": "say", "quantized": "this"}
    ]


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    save_evaluation(tmp_path, EvalResult(1.0, 2), text=EMBEDDED_TEXT, original=None, seqlen=2)
    save_generation(tmp_path, "say", "this")
    save_tasks(tmp_path, [task_score("arc", 1.0)], original=None)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UsageError, match="leave --save out"):
        check_saves(tmp_path)
    assert check_saves(write_folder(tmp_path / "out")) == tmp_path / "out"
