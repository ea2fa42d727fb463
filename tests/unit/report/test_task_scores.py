from __future__ import annotations

from autoround.evaluate.tasks.scores import Metric, TaskScore, score_values
from autoround.report.page import report_page
from autoround.report.task_scores import task_lines, tasks_part, with_error

from ._runs import HOSTILE, poisoned, run_folder

SCORES = [
    TaskScore(
        "arc_easy",
        (Metric("acc", 0.5, 0.03, 0.55, 0.02, 7, 4), Metric("acc_norm", 0.4, None, 0.5, None)),
        200,
        5,
        "lm-eval 0.4.13",
        "torch 2.13.0, float32",
        3,
    ),
    TaskScore("mine", (Metric("acc", 1.0),), 1, 0, "autoround", "torch 2.13.0, float32"),
]


def test_a_model_and_its_original_in_lines() -> None:
    assert task_lines(SCORES) == [
        "arc_easy: 200 questions, 5 solved before each",
        "  acc       0.5000 ± 0.0300  original 0.5500 ± 0.0200  lost 7, gained 4",
        "  acc_norm  0.4000  original 0.5000",
        "  3 requests were cut to what the model takes",
        "mine: 1 question",
        "  acc  1.0000",
        "scored by lm-eval 0.4.13, run by torch 2.13.0, float32",
        "scored by autoround, run by torch 2.13.0, float32",
    ]
    assert max(map(len, task_lines(SCORES))) <= 80


def test_a_page_has_a_section_of_tasks_where_some_are_kept() -> None:
    assert tasks_part(run_folder()) == ""
    run = run_folder(evaluation={"tasks": [score_values(score) for score in SCORES]})
    part = tasks_part(run)
    for cell in ("0.5000 ± 0.0300", "0.5500 ± 0.0200", "7 / 4", "arc_easy", "200"):
        assert cell in part
    assert 'href="#tasks"' in report_page(run)
    assert 'href="#tasks"' not in report_page(run_folder())


def test_what_a_file_says_is_escaped_and_may_be_anything() -> None:
    values = [score_values(score) for score in SCORES]
    page = report_page(run_folder(evaluation={"tasks": poisoned(values)}))
    assert HOSTILE not in page
    broken = {"tasks": [3, {"metrics": 3}, {"metrics": [{"name": 7, "value": "x"}]}]}
    assert "–" in tasks_part(run_folder(evaluation=broken))
    assert tasks_part(run_folder(evaluation={"tasks": "x"})) == ""


def test_figures_with_and_without_an_error() -> None:
    assert with_error(0.25, None) == "0.2500"
    assert with_error(None, 0.5) == "–"
