"""Figures of tasks in words, and on the page of a run."""

from __future__ import annotations

from collections.abc import Sequence

from autoround.evaluate.tasks.scores import Metric, TaskScore
from autoround.report.figures import MISSING, decimal
from autoround.report.folder import RunFolder, mappings, number, text
from autoround.report.markup import Heading, Html, el, join, table

#: Places of figures and of their standard errors.
PLACES = 4


def task_lines(scores: Sequence[TaskScore]) -> list[str]:
    """Return the figures of tasks as lines of text.

    Args:
        scores: of a model, or of a model beside its original.
    """
    lines = []
    for score in scores:
        shots = f", {score.shots} solved before each" if score.shots else ""
        plural = "s" * (score.count != 1)
        lines.append(f"{score.task}: {score.count} question{plural}{shots}")
        width = max(len(metric.name) for metric in score.metrics)
        lines += [f"  {metric.name:<{width}}  {_describe(metric)}" for metric in score.metrics]
        if score.truncated:
            lines.append(f"  {score.truncated} requests were cut to what the model takes")
    for made in dict.fromkeys((score.scorer, score.engine) for score in scores):
        lines.append(f"scored by {made[0]}, run by {made[1]}")
    return lines


def _describe(metric: Metric) -> str:
    shown = with_error(metric.value, metric.stderr)
    if metric.original is None:
        return shown
    words = f"{shown}  original {with_error(metric.original, metric.original_stderr)}"
    if metric.lost is None or metric.gained is None:
        return words
    return f"{words}  lost {metric.lost}, gained {metric.gained}"


def with_error(value: float | None, stderr: float | None) -> str:
    """Write a figure with its standard error.

    Args:
        value: None where there is none.
        stderr: None where there is none.
    """
    if value is None or stderr is None:
        return decimal(value, PLACES)
    return f"{decimal(value, PLACES)} ± {decimal(stderr, PLACES)}"


def tasks_part(run: RunFolder) -> Html:
    """Return the section of tasks of a run's page; empty where none is kept.

    Args:
        run: what the output folder says of it.
    """
    rows, notes = [], []
    for score in mappings(run.evaluation.get("tasks")):
        for metric in mappings(score.get("metrics")):
            lost, gained = number(metric, "lost"), number(metric, "gained")
            rows.append(
                [
                    text(score, "task"),
                    text(metric, "name"),
                    with_error(number(metric, "value"), number(metric, "stderr")),
                    with_error(number(metric, "original"), number(metric, "original_stderr")),
                    MISSING if lost is None else f"{decimal(lost, 0)} / {decimal(gained, 0)}",
                    decimal(number(score, "questions"), 0),
                    decimal(number(score, "shots"), 0),
                ]
            )
        notes.append(f"Scored by {text(score, 'scorer')}, run by {text(score, 'engine')}.")
    if not rows:
        return join([])
    headings = [
        Heading("Task"),
        Heading("Figure"),
        Heading("Quantized", numbers=True),
        Heading("Original", numbers=True),
        Heading("Lost / gained", numbers=True),
        Heading("Questions", numbers=True),
        Heading("Solved before", numbers=True),
    ]
    shown = table("Tasks: figures and their standard errors", headings, rows)
    explained = (
        "Lost: questions that the original alone gets right; gained: that the quantized model "
        "alone does. "
    )
    return join([shown, el("p", explained, " ".join(dict.fromkeys(notes)))])
