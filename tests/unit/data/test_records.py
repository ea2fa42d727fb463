from __future__ import annotations

from typing import Any

import pytest

from autoround.data import records
from autoround.data.records import Chat, Ids, Text, size, to_record
from autoround.errors import DataError

TURNS = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
CHAT = Chat((("user", "hi"), ("assistant", "yes")), "f:1")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("hi", Text("hi", "f:1")),
        ({"text": "hi", "meta": {"a": 1}}, Text("hi", "f:1")),
        ({"body": "hi"}, Text("hi", "f:1")),
        ({"input_ids": [1, 2], "attention_mask": [1, 1]}, Ids((1, 2), "f:1")),
        ([3, 4], Ids((3, 4), "f:1")),
        (TURNS, CHAT),
        ({"messages": TURNS, "id": 3}, CHAT),
        ({"conversations": TURNS}, CHAT),
        ({"text": "hi", "messages": TURNS}, Text("hi", "f:1")),
    ],
)
def test_accepted_forms(value: Any, expected: records.Record) -> None:
    assert to_record(value, "f:1") == expected


def test_asking_for_chat_prefers_messages() -> None:
    value = {"text": "hi", "messages": TURNS}
    assert to_record(value, "f:1", prefer_chat=True) == CHAT


def test_key_names_the_field() -> None:
    value = {"text": "no", "body": "yes", "n": 1}
    assert to_record(value, "f:1", key="body") == Text("yes", "f:1")
    with pytest.raises(DataError, match=r"f:1: no field 'b'; fields found: 'text', 'body', 'n'"):
        to_record(value, "f:1", key="b")
    with pytest.raises(DataError, match="not a mapping"):
        to_record("yes", "f:1", key="b")


@pytest.mark.parametrize(
    ("value", "part"),
    [
        ({"question": "a", "answer": "b"}, "fields found: 'question', 'answer'"),
        ({}, "fields found: none"),
        ({"text": None}, "NoneType"),
        (3, "of type int"),
        ([], "an empty list"),
        ([1, "a"], "a list of int and str"),
        ([1, True], "a list of bool and int"),
        ([1.5], "a list of float"),
        ({"messages": [{"from": "human", "value": "x"}]}, "message 0: the strings 'role'"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "fields found: 'role', 'content'"),
        ("a\ud800", "character 1 is an unpaired surrogate"),
    ],
)
def test_other_forms_are_refused_with_what_was_found(value: Any, part: str) -> None:
    with pytest.raises(DataError) as caught:
        to_record(value, "f:1")
    assert "f:1" in str(caught.value)
    assert part in str(caught.value)


def test_a_record_over_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_RECORD_CHARS", 10)
    assert size(to_record("x" * 10, "f:1")) == 10
    for value in ("x" * 11, [1] * 11, [{"role": "user", "content": "x" * 11}]):
        with pytest.raises(DataError, match="f:1: one record of 11 characters is over the limit"):
            to_record(value, "f:1")
