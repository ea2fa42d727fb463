"""How well a model does a task: figures with their standard errors, and each question's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class QuestionScore:
    """What came of one question.

    id: of the question in its task, as text. values: figures by name; acc is 0 or 1.
    log_likelihoods: of the choices in nats, in their order; empty where there are none.
    """

    id: str
    values: Mapping[str, float]
    log_likelihoods: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure of a task.

    name: acc, acc_norm, exact_match, and so on; with a filter's name behind a slash where lm-eval
    applied one. value: for the model. stderr: its standard error; None where there is none.
    original, original_stderr: the same for the unquantized model. lost, gained: questions that the
    original alone gets right, and the model alone; None where figures are not 0 or 1.
    """

    name: str
    value: float
    stderr: float | None = None
    original: float | None = None
    original_stderr: float | None = None
    lost: int | None = None
    gained: int | None = None


@dataclass(frozen=True, slots=True)
class TaskScore:
    """Figures of one task.

    task: its name. metrics: its figures. count: questions that were asked. shots: solved questions
    that stood before each. scorer: the program that made the figures of the answers. engine: the
    program that ran the model. truncated: requests that were cut to the model's length.
    questions: each question's figures, and those of the original.
    """

    task: str
    metrics: tuple[Metric, ...]
    count: int
    shots: int
    scorer: str
    engine: str
    truncated: int = 0
    questions: tuple[QuestionScore, ...] = ()
    original_questions: tuple[QuestionScore, ...] = ()


def mean_and_stderr(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean of some figures, and its standard error.

    The error is sqrt(Σ (x − mean)² / (n − 1)) / sqrt(n), as lm-eval has it; None for one figure.

    Args:
        values: at least one.
    """
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, None
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, math.sqrt(variance / len(values))


def beside_original(score: TaskScore, original: TaskScore) -> TaskScore:
    """Return a task's figures with those of the unquantized model beside them.

    Args:
        score: of the quantized model.
        original: of the same questions.
    """
    before = {metric.name: metric for metric in original.metrics}
    metrics = []
    for metric in score.metrics:
        other = before.get(metric.name)
        if other is not None:
            lost, gained = _changes(score.questions, original.questions, metric.name)
            metric = replace(
                metric,
                original=other.value,
                original_stderr=other.stderr,
                lost=lost,
                gained=gained,
            )
        metrics.append(metric)
    return replace(score, metrics=tuple(metrics), original_questions=original.questions)


def _changes(
    after: Sequence[QuestionScore], before: Sequence[QuestionScore], name: str
) -> tuple[int | None, int | None]:
    """Count questions that only the original gets right, and those that only the model does."""
    expected = {question.id: question.values.get(name) for question in before}
    pairs = [(expected.get(question.id), question.values.get(name)) for question in after]
    if not pairs or any(x not in (0.0, 1.0) or y not in (0.0, 1.0) for x, y in pairs):
        return None, None
    return sum(x == 1 and y == 0 for x, y in pairs), sum(x == 0 and y == 1 for x, y in pairs)


def score_values(score: TaskScore) -> dict[str, Any]:
    """Return a task's figures as plain values, without those of its questions.

    Args:
        score: of a task.
    """
    return {
        "task": score.task,
        "questions": score.count,
        "shots": score.shots,
        "scorer": score.scorer,
        "engine": score.engine,
        "truncated": score.truncated,
        "metrics": [
            {
                "name": metric.name,
                "value": metric.value,
                "stderr": metric.stderr,
                "original": metric.original,
                "original_stderr": metric.original_stderr,
                "lost": metric.lost,
                "gained": metric.gained,
            }
            for metric in score.metrics
        ],
    }


def question_values(score: TaskScore) -> list[dict[str, Any]]:
    """Return the figures of a task's questions as plain values, one for each question.

    Args:
        score: of a task; with an original, each value has that one's figures under ``original``.
    """
    before = {question.id: question for question in score.original_questions}
    rows = []
    for question in score.questions:
        row = {"task": score.task, "id": question.id, **_plain(question)}
        other = before.get(question.id)
        if other is not None:
            row["original"] = _plain(other)
        rows.append(row)
    return rows


def _plain(question: QuestionScore) -> dict[str, Any]:
    values: dict[str, Any] = dict(question.values)
    if question.log_likelihoods:
        values["log_likelihoods"] = list(question.log_likelihoods)
    return values
