from __future__ import annotations

import json
import math
import statistics

from autoround.evaluate.tasks.scores import (
    Metric,
    QuestionScore,
    TaskScore,
    beside_original,
    mean_and_stderr,
    question_values,
    score_values,
)


def task(*rights: float, name: str = "t") -> TaskScore:
    """Return a task whose questions are right or wrong as told."""
    questions = tuple(QuestionScore(str(i), {"acc": x}, (-1.0,)) for i, x in enumerate(rights))
    metric = Metric("acc", *mean_and_stderr(rights))
    return TaskScore(name, (metric,), len(rights), 0, "s", "e", 0, questions)


def test_the_standard_error_is_that_of_a_sample() -> None:
    values = [1.0, 0.0, 1.0, 1.0, 0.0]
    mean, stderr = mean_and_stderr(values)
    assert mean == statistics.mean(values)
    assert stderr is not None
    assert math.isclose(stderr, statistics.stdev(values) / math.sqrt(5))
    assert mean_and_stderr([1.0]) == (1.0, None)


def test_an_original_beside_it_counts_what_changed() -> None:
    both = beside_original(task(1, 0, 0, 1), task(1, 1, 1, 0))
    (metric,) = both.metrics
    assert (metric.value, metric.original) == (0.5, 0.75)
    assert metric.stderr is not None
    assert (metric.lost, metric.gained) == (2, 1)


def test_figures_between_0_and_1_are_not_counted_as_right_or_wrong() -> None:
    (metric,) = beside_original(task(0.5, 1), task(1, 1)).metrics
    assert metric.original == 1
    assert metric.lost is metric.gained is None


def test_a_metric_that_the_original_lacks_stands_alone() -> None:
    other = TaskScore("t", (Metric("f1", 0.5),), 2, 0, "s", "e")
    assert beside_original(task(1, 1), other).metrics[0].original is None


def test_plain_values_hold_the_figures_and_each_question_both_models() -> None:
    both = beside_original(task(1, 0), task(0, 0))
    values = json.loads(json.dumps(score_values(both)))
    assert values["questions"] == 2
    assert values["metrics"][0] | {"stderr": None, "original_stderr": None} == {
        **{"name": "acc", "value": 0.5, "stderr": None, "original": 0.0},
        **{"original_stderr": None, "lost": 0, "gained": 1},
    }
    assert question_values(both)[0] == {
        **{"task": "t", "id": "0", "acc": 1, "log_likelihoods": [-1.0]},
        "original": {"acc": 0, "log_likelihoods": [-1.0]},
    }
    assert "original" not in question_values(task(1))[0]
