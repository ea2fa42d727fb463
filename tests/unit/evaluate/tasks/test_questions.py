from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from autoround.errors import DataError
from autoround.evaluate.tasks.questions import MAX_LINE_BYTES, Question, read_questions

EXAMPLES = Path(__file__).parents[4] / "examples" / "tasks" / "questions.jsonl"
ARC = {
    "id": "Mercury_1",
    "question": "Which is a solid?",
    "choices": {"text": ["milk", "a stone", "air"], "label": ["1", "2", "3"]},
    "answerKey": "2",
}
PLAIN = {"question": "Two plus two?", "choices": ["three", "four"], "answer": 1}


def write(path: Path, *rows: Any) -> Path:
    """Write rows as a .jsonl file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def test_the_fields_of_arc_and_plain_lists(tmp_path: Path) -> None:
    path = write(tmp_path / "q.jsonl", ARC, PLAIN)
    assert read_questions(path) == [
        Question("Mercury_1", "Which is a solid?", ("milk", "a stone", "air"), 1),
        Question("1", "Two plus two?", ("three", "four"), 1),
    ]
    assert len(read_questions(path, limit=1)) == 1


@pytest.mark.parametrize("answer", ["B", "four", 1])
def test_an_answer_is_a_letter_a_text_or_an_index(tmp_path: Path, answer: object) -> None:
    (question,) = read_questions(write(tmp_path / "q.jsonl", PLAIN | {"answer": answer}))
    assert question.answer == 1


def test_labels_may_stand_beside_a_list_of_choices(tmp_path: Path) -> None:
    row = PLAIN | {"labels": ["1", "2"], "answer": "1"}
    (question,) = read_questions(write(tmp_path / "q.jsonl", row))
    assert question.answer == 0


def test_the_examples_are_questions_with_four_choices() -> None:
    questions = read_questions(EXAMPLES)
    assert len(questions) == 200
    assert all(len(set(question.choices)) == 4 for question in questions)
    assert {question.answer for question in questions} == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ([1], "a list, not a question"),
        ({"question": " "}, "no 'question'"),
        ({"question": "a?", "choices": "ab"}, "no 'choices'"),
        ({"question": "a?", "choices": ["a", ""]}, "none of them empty"),
        ({"question": "a?", "choices": ["a"]}, "1 choices"),
        (PLAIN | {"answer": 2}, "names none of the 2 choices"),
        (PLAIN | {"answer": -1}, "names none"),
        (PLAIN | {"answer": True}, "names none"),
        (PLAIN | {"answer": "C"}, "names none"),
        (PLAIN | {"choices": {"text": ["a", "b"], "label": 3}}, "labels"),
        (PLAIN | {"labels": ["1"]}, "1 labels for 2 choices"),
        (PLAIN | {"labels": ["1", "2"], "answer": "3"}, "names none"),
        (PLAIN | {"question": "\ud800"}, "surrogate"),
    ],
)
def test_what_is_no_question_names_its_line(tmp_path: Path, row: object, reason: str) -> None:
    with pytest.raises(DataError, match=reason) as caught:
        read_questions(write(tmp_path / "q.jsonl", ARC, row))
    assert "q.jsonl:2: " in str(caught.value)


def test_files_that_cannot_be_asked(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_questions(tmp_path / "gone.jsonl")
    with pytest.raises(DataError, match="holds no questions"):
        read_questions(write(tmp_path / "empty.jsonl"))
    with pytest.raises(DataError, match="two questions have the id 'Mercury_1'"):
        read_questions(write(tmp_path / "twice.jsonl", ARC, ARC))
    (tmp_path / "bad.jsonl").write_text("{\n")
    with pytest.raises(DataError, match=r"bad\.jsonl:1: not valid JSON"):
        read_questions(tmp_path / "bad.jsonl")
    (tmp_path / "long.jsonl").write_bytes(b" " * (MAX_LINE_BYTES + 1))
    with pytest.raises(DataError, match="more than"):
        read_questions(tmp_path / "long.jsonl")
