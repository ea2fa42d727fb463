"""Multiple choice: the choice that a model finds most likely is its answer."""

from __future__ import annotations

from collections.abc import Sequence

from autoround.errors import DataError
from autoround.evaluate.tasks.model import OnAnswer, TaskModel, encode_pair
from autoround.evaluate.tasks.questions import Question
from autoround.evaluate.tasks.scores import Metric, QuestionScore, TaskScore, mean_and_stderr

#: The prompt of ARC's questions in lm-eval, and what stands before each choice.
PROMPT, DELIMITER = "Question: {question}\nAnswer:", " "
SCORER = "autoround"


def ask_questions(
    model: TaskModel,
    questions: Sequence[Question],
    *,
    task: str,
    on_answer: OnAnswer | None = None,
) -> TaskScore:
    """Let a model answer questions by the likelihood of each choice behind the question.

    acc counts the answers that are right. acc_norm counts those of the choice whose likelihood is
    the highest for its length in characters; both as in lm-eval, and ties go to the first choice.

    Args:
        model: that answers.
        questions: at least one.
        task: what the result calls them.
        on_answer: called with the number of choices that are scored, and of all.

    Raises:
        DataError: the tokenizer makes nothing of a choice.
    """
    requests = []
    for question in questions:
        context = PROMPT.format(question=question.text)
        for choice in question.choices:
            request = encode_pair(model, context, DELIMITER + choice)
            if not request.continuation:
                raise DataError(
                    f"question {question.id!r}: the tokenizer makes no tokens of the choice "
                    f"{choice[:40]!r}"
                )
            requests.append(request)
    cut_before = model.truncated
    answers = iter(model.score(requests, on_answer=on_answer))
    results = tuple(
        score_question(question, [next(answers).log_prob for _ in question.choices])
        for question in questions
    )
    metrics = tuple(
        Metric(name, *mean_and_stderr([result.values[name] for result in results]))
        for name in ("acc", "acc_norm")
    )
    cut = model.truncated - cut_before
    return TaskScore(task, metrics, len(results), 0, SCORER, model.engine, cut, results)


def score_question(question: Question, log_likelihoods: Sequence[float]) -> QuestionScore:
    """Hold the likelihoods of a question's choices against its answer.

    Args:
        question: that was asked.
        log_likelihoods: of its choices, in nats, in their order.
    """
    by_length = [
        value / len(choice) for value, choice in zip(log_likelihoods, question.choices, strict=True)
    ]
    values = {
        "acc": float(_best(log_likelihoods) == question.answer),
        "acc_norm": float(_best(by_length) == question.answer),
    }
    return QuestionScore(question.id, values, tuple(log_likelihoods))


def _best(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)
