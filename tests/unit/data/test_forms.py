from __future__ import annotations

from typing import Any

import pytest

from autoround.data.forms import columns_to_read, is_message, pick_form, refusal, rows_of

MESSAGE = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    ("fields", "form", "chat_form"),
    [
        ({"text": "a", "messages": []}, ("text",), ("messages",)),
        ({"input_ids": [], "conversations": []}, ("input_ids",), ("conversations",)),
        ({"messages": [], "conversations": []}, ("messages",), ("messages",)),
        ({"text": None, "messages": []}, ("messages",), ("messages",)),
        ({"text": None, "messages": None}, ("text",), ("messages",)),
        ({"prompt": "", "completion": ""}, ("prompt", "completion"), ("prompt", "completion")),
        ({"prompt": "", "chosen": ""}, None, None),
        (
            {"instruction": "", "input": "", "output": "", "text": ""},
            ("text",),
            ("instruction", "output"),
        ),
        ({"instruction": "", "response": ""}, None, None),
        ({}, None, None),
    ],
)
def test_the_first_form_that_is_whole_is_taken(
    fields: dict[object, object], form: Any, chat_form: Any
) -> None:
    assert pick_form(fields, prefer_chat=False) == form
    assert pick_form(fields, prefer_chat=True) == chat_form


def test_only_columns_of_a_known_form_are_read() -> None:
    names = ["id", "system", "conversations", "tools", "score"]
    assert columns_to_read(names) == ["system", "conversations", "tools"]
    assert columns_to_read(["id", "instruction", "input", "output"]) == names_of_alpaca()
    # Half of a form is none: all columns are read, and the row is refused by name.
    assert columns_to_read(["system", "question"]) is None
    assert columns_to_read(["prompt", "chosen", "rejected"]) is None


def names_of_alpaca() -> list[str]:
    return ["instruction", "input", "output"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (MESSAGE, True),
        ({"from": "human", "value": "hi"}, True),
        ({"role": "assistant", "tool_calls": []}, True),
        ({"role": "user"}, False),
        ({"role": 3, "content": "x"}, False),
        ({"text": "a", "role": "user", "content": "hi"}, False),
        ("hi", False),
    ],
)
def test_a_message_is_known_by_its_fields(value: object, expected: bool) -> None:
    assert is_message(value) is expected


@pytest.mark.parametrize(
    ("value", "rows"),
    [
        ([], []),
        (["a", "b"], ["a", "b"]),
        ([MESSAGE, MESSAGE], [[MESSAGE, MESSAGE]]),
        ([[MESSAGE], [MESSAGE]], [[MESSAGE], [MESSAGE]]),
        ({"messages": [MESSAGE]}, [{"messages": [MESSAGE]}]),
        ({"messages": [[MESSAGE], [MESSAGE]]}, [{"messages": [MESSAGE]}] * 2),
        ({"input_ids": [1, 2]}, [{"input_ids": [1, 2]}]),
        ({"input_ids": [[1], [2]]}, [{"input_ids": [1]}, {"input_ids": [2]}]),
        ({"text": ["a", "b"], "n": [1, 2]}, [{"text": "a", "n": 1}, {"text": "b", "n": 2}]),
        ({"text": "a", "n": [1, 2]}, [{"text": "a", "n": [1, 2]}]),
        ({"rows": [{"text": "a"}]}, [{"text": "a"}]),
        ({"text": ["a"], "n": []}, None),
        ({"a": 1}, None),
        ({}, None),
        ("a", None),
    ],
)
def test_rows_of_decoded_values(value: Any, rows: Any) -> None:
    assert rows_of(value) == rows


def test_a_refusal_names_row_problem_fields_and_legal_forms() -> None:
    message = str(refusal("f.jsonl:3", "no field with text", {"a": 1, "b": 2}))
    assert message.startswith(
        "f.jsonl:3: no field with text; fields found: 'a', 'b'. Legal forms: "
    )
    assert "; fields found" not in str(refusal("f:1", "a list is needed"))
    assert "'n19'" in str(refusal("f", "x", [f"n{n}" for n in range(99)]))
    assert "'n20'" not in str(refusal("f", "x", [f"n{n}" for n in range(99)]))
