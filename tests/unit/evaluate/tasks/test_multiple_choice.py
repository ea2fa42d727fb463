from __future__ import annotations

import math

import pytest

from autoround.errors import DataError
from autoround.evaluate.tasks.multiple_choice import ask_questions, score_question
from autoround.evaluate.tasks.questions import Question

from ._toy import ToyTaskModel

#: The toy model likes few and early letters: "b" more than "c", and both more than "aaaa".
QUESTIONS = [
    Question("x", "first?", ("c", "b"), 1),
    Question("y", "second?", ("aaaa", "c"), 0),
    Question("z", "third?", ("b", "c"), 1),
]


def test_the_likeliest_choice_is_the_answer() -> None:
    calls: list[tuple[int, int]] = []
    score = ask_questions(
        ToyTaskModel(), QUESTIONS, task="letters", on_answer=lambda *x: calls.append(x)
    )
    by_name = {metric.name: metric for metric in score.metrics}
    # x is right; y is right for its length alone; z is wrong.
    assert math.isclose(by_name["acc"].value, 1 / 3)
    assert math.isclose(by_name["acc_norm"].value, 2 / 3)
    assert [dict(q.values) for q in score.questions] == [
        {"acc": 1.0, "acc_norm": 1.0},
        {"acc": 0.0, "acc_norm": 1.0},
        {"acc": 0.0, "acc_norm": 0.0},
    ]
    # Each choice is asked for with the space before it.
    expected = -(ord(" ") + ord("c")) / 100
    assert score.questions[0].log_likelihoods[0] == expected
    assert (score.count, score.shots, score.engine) == (3, 0, "toy 1")
    assert calls == [(6, 6)]


def test_length_is_in_characters_and_ties_go_to_the_first() -> None:
    question = Question("x", "?", ("äöü", "ab"), 0)
    # -3 / 3 characters is more than -2.2 / 2; -3 / 6 bytes would be, too, and -2.2 is more than -3.
    assert dict(score_question(question, [-3.0, -2.2]).values) == {"acc": 0.0, "acc_norm": 1.0}
    assert dict(score_question(question, [-1.0, -1.0]).values)["acc"] == 1.0
    long = Question("x", "?", ("ää", "abc"), 0)
    # By bytes the first, -3 / 4 against -3.3 / 3; by characters the second.
    assert dict(score_question(long, [-3.0, -3.3]).values)["acc_norm"] == 0.0


def test_a_choice_without_tokens_is_refused() -> None:
    class Deaf(ToyTaskModel):
        def encode(self, text: str, *, special: bool) -> list[int]:
            return [5]

    with pytest.raises(DataError, match="makes no tokens of the choice 'c'"):
        ask_questions(Deaf(), QUESTIONS, task="letters")
