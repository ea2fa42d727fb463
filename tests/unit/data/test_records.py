from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoround.data import records
from autoround.data.chats import Chat, Message
from autoround.data.forms import CHAT_FORMS, TEXT_FORMS, rows_of
from autoround.data.records import Ids, Text, Unusable, size, to_record
from autoround.data.rendering import plain_chat
from autoround.errors import DataError

TURNS = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
CHAT = Chat((Message("user", "hi"), Message("assistant", "yes")), "f:1")


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
        (
            {"question": "a", "answer": "b"},
            "no field with text; fields found: 'question', 'answer'",
        ),
        ({}, "no field with text; fields found: none"),
        ({"text": 3, "id": 1}, "'text' is a value of type int, not a text"),
        ({"body": {"a": 1}}, "'body' is a value of type dict, not a text"),
        (3, "a value of type int, not a text"),
        (None, "null, not a text"),
        ([1, "a"], "a list of int and str, not a text"),
        ([1, True], "a list of bool and int"),
        ([1.5], "a list of float"),
    ],
)
def test_other_forms_are_refused_with_what_was_found(value: Any, part: str) -> None:
    with pytest.raises(DataError) as caught:
        to_record(value, "f:1")
    message = str(caught.value)
    assert message.startswith("f:1: ")
    assert part in message
    legal = message.partition("Legal forms: ")[2]
    assert all(f'"{name}": ' in legal for form in TEXT_FORMS + CHAT_FORMS for name in form)


def test_text_that_is_no_unicode_is_refused() -> None:
    for value in ("a\ud800", {"prompt": "", "completion": "a\ud800"}):
        with pytest.raises(DataError, match="f:1: character 1 is an unpaired surrogate"):
            to_record(value, "f:1")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"text": None}, "'text' is null"),
        ({"body": None}, "'body' is null"),
        ({"text": None, "messages": None, "id": 1}, "'text' is null"),
        ({"prompt": "a", "completion": None}, "'completion' is null"),
        ([], "an empty list"),
        ({"input_ids": []}, "'input_ids' is an empty list"),
        ({"messages": [], "id": 1}, "'messages' is an empty list"),
    ],
)
def test_a_row_with_nothing_in_it_is_unusable_not_illegal(value: Any, reason: str) -> None:
    assert to_record(value, "f:1") == Unusable(f"f:1: {reason}", "f:1")


def test_nulls_of_other_forms_in_a_table_are_passed_over() -> None:
    value = {"text": None, "messages": None, "prompt": "hi", "completion": " yes"}
    record = to_record(value, "f:1")
    assert isinstance(record, Chat)
    assert record.plain == "hi yes"


def test_key_takes_a_conversation_too() -> None:
    value = {"text": "no", "turns": TURNS, "tools": '[{"name": "f"}]'}
    record = to_record(value, "f:1", key="turns")
    assert record == Chat(CHAT.messages, "f:1", tools=({"name": "f"},))


def test_a_record_over_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_RECORD_CHARS", 10)
    assert size(to_record("x" * 10, "f:1")) == 10
    for value in ("x" * 11, [1] * 11, [{"role": "user", "content": "x" * 11}]):
        with pytest.raises(DataError, match="f:1: one record of 11 characters is over the limit"):
            to_record(value, "f:1")


FIELDS = (
    *("text", "input_ids", "messages", "conversations", "prompt", "completion", "instruction"),
    *("input", "output", "system", "tools", "role", "content", "from", "value", "tool_calls"),
    *("function_call", "function", "name", "arguments", "type", "id"),
)
fields = st.sampled_from(FIELDS)
words = st.sampled_from(["", " ", "user", "human", "text", "hi", '[{"', "[]", "{}", "\ud800"])
leaves = st.none() | st.booleans() | st.integers(-1, 3) | st.floats(allow_nan=False) | words
values = st.recursive(
    leaves,
    lambda x: st.lists(x, max_size=3) | st.dictionaries(fields, x, max_size=4),
    max_leaves=12,
)


@settings(max_examples=300)
@given(values, st.booleans(), st.none() | fields)
def test_any_row_is_a_record_or_an_error_that_names_it(
    value: Any, prefer_chat: bool, key: str | None
) -> None:
    try:
        record = to_record(value, "f:1", key=key, prefer_chat=prefer_chat)
    except DataError:
        with pytest.raises(DataError, match="^f:1"):
            to_record(value, "f:1", key=key, prefer_chat=prefer_chat)
        return
    assert record.where == "f:1"
    assert size(record) >= 0
    if isinstance(record, Chat):
        assert plain_chat(record, system_prompt=None).strip()


@given(st.recursive(leaves, lambda x: st.lists(x, max_size=3) | st.dictionaries(fields, x)))
def test_rows_of_any_value_are_a_list_or_none(value: Any) -> None:
    rows = rows_of(value)
    assert rows is None or (isinstance(rows, list) and isinstance(value, (list, dict)))
