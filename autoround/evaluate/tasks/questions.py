"""Questions with choices, from a file of one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoround.errors import DataError

#: Bytes of a line, and choices of a question, at most.
MAX_LINE_BYTES, MAX_CHOICES = 1 << 20, 64
_LEGAL = (
    'legal: {"question": ..., "choices": {"text": [...], "label": [...]}, "answerKey": "B"}, as '
    'ARC has them, or {"question": ..., "choices": [...], "answer": 1}, counted from 0'
)


@dataclass(frozen=True, slots=True)
class Question:
    """A question: its id in the file, its text, what may be answered, and which of it is right."""

    id: str
    text: str
    choices: tuple[str, ...]
    answer: int


def read_questions(path: Path, *, limit: int | None = None) -> list[Question]:
    """Read questions from a .jsonl file.

    Args:
        path: of the file.
        limit: questions to read at most; None for all.

    Raises:
        DataError: the file cannot be read, a line is no question, or there is none.
    """
    questions: list[Question] = []
    try:
        with path.open("rb") as file:
            number = 0
            while limit is None or len(questions) < limit:
                number += 1
                line = file.readline(MAX_LINE_BYTES + 1)
                if not line:
                    break
                where = f"{path}:{number}"
                if len(line) > MAX_LINE_BYTES:
                    raise DataError(f"{where}: a question of more than {MAX_LINE_BYTES} bytes")
                if line.strip():
                    questions.append(_parse(line, where, index=len(questions)))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not questions:
        raise DataError(f"{path} holds no questions; {_LEGAL}")
    ids = [question.id for question in questions]
    if len(set(ids)) < len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise DataError(f"{path}: two questions have the id {twice!r}; give each its own, or none")
    return questions


def _parse(line: bytes, where: str, *, index: int) -> Question:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not valid JSON: {error}") from error
    if not isinstance(row, dict):
        raise DataError(f"{where}: a {type(row).__name__}, not a question; {_LEGAL}")
    text = row.get("question")
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{where}: no 'question' that is a text; {_LEGAL}")
    choices, labels = _read_choices(row, where)
    answer = _find_answer(row, choices, labels)
    if answer is None:
        raise DataError(
            f"{where}: its 'answerKey' or 'answer' names none of the {len(choices)} choices; "
            f"{_LEGAL}"
        )
    for part in (text, *choices):
        if any("\ud800" <= letter <= "\udfff" for letter in part):
            raise DataError(f"{where}: half a surrogate pair, which is not valid Unicode text")
    name = row.get("id")
    return Question(str(index) if name is None else str(name), text, choices, answer)


def _read_choices(row: Mapping[str, Any], where: str) -> tuple[tuple[str, ...], list[str]]:
    """Return the choices and their labels; letters where the file gives none."""
    value = row.get("choices")
    texts = value.get("text") if isinstance(value, Mapping) else value
    if not isinstance(texts, list) or not all(isinstance(x, str) and x for x in texts):
        raise DataError(f"{where}: no 'choices' that are texts, none of them empty; {_LEGAL}")
    if not 2 <= len(texts) <= MAX_CHOICES:
        raise DataError(f"{where}: {len(texts)} choices; 2 to {MAX_CHOICES} are legal")
    labels = value.get("label") if isinstance(value, Mapping) else row.get("labels")
    if labels is None:
        return tuple(texts), [chr(ord("A") + i) for i in range(min(len(texts), 26))]
    if not isinstance(labels, list) or not all(isinstance(x, str) for x in labels):
        raise DataError(f"{where}: the labels of its choices are no list of texts; {_LEGAL}")
    if len(labels) != len(texts):
        raise DataError(f"{where}: {len(labels)} labels for {len(texts)} choices")
    return tuple(texts), labels


def _find_answer(row: Mapping[str, Any], choices: tuple[str, ...], labels: list[str]) -> int | None:
    """Return the index of the right choice, named by its label, its index or its text."""
    key = row.get("answerKey", row.get("answer"))
    if isinstance(key, int) and not isinstance(key, bool):
        index = key
    elif isinstance(key, str) and key in labels:
        index = labels.index(key)
    elif isinstance(key, str) and choices.count(key) == 1:
        index = choices.index(key)
    else:
        return None
    return index if 0 <= index < len(choices) else None
