"""The table of forms of conversations: a row of each, and what a model is given of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from autoround.data.chats import Chat
from autoround.data.encode import make_encoder
from autoround.data.forms import UnusableError
from autoround.data.records import Unusable, to_record
from autoround.errors import DataError

TURNS = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
SHAREGPT = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yes"}]
CALL = {
    "id": "a1",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"city": "Rom"}'},
}
CALL_TEXT = '{"name": "weather", "arguments": {"city": "Rom"}}'
BOTH = ("<user> hi <assistant> yes ", "User: hi\n\nAssistant: yes")

FORMS: dict[str, tuple[Any, str, str]] = {
    "messages": ({"messages": TURNS}, *BOTH),
    "a bare list of messages": (TURNS, *BOTH),
    "messages under conversations": ({"conversations": TURNS}, *BOTH),
    "ShareGPT": ({"conversations": SHAREGPT, "id": "x"}, *BOTH),
    "ShareGPT under messages": ({"messages": SHAREGPT}, *BOTH),
    "ShareGPT with a system field": (
        {"system": "Be kind.", "conversations": SHAREGPT},
        "<system> Be kind. " + BOTH[0],
        "System: Be kind.\n\n" + BOTH[1],
    ),
    "ShareGPT with tools": (
        {
            "conversations": [
                {"from": "human", "value": "hi"},
                {"from": "function_call", "value": CALL_TEXT},
                {"from": "observation", "value": "sunny"},
            ],
            "tools": '[{"name": "weather"}]',
        },
        f"<user> hi <assistant> {CALL_TEXT} <tool> sunny <assistant>",
        f"User: hi\n\nAssistant: {CALL_TEXT}\n\nTool: sunny",
    ),
    "speakers in capitals": (
        {"conversations": [{"from": "Human", "value": "hi"}, {"from": "GPT", "value": "yes"}]},
        *BOTH,
    ),
    "columns of messages": (
        {"messages": {"role": ["user", "assistant"], "content": ["hi", "yes"]}},
        *BOTH,
    ),
    "columns of ShareGPT": (
        {"conversations": {"from": ["human", "gpt"], "value": ["hi", "yes"]}},
        *BOTH,
    ),
    "JSON in a text": ({"messages": json.dumps(TURNS), "id": 1}, *BOTH),
    "parts": (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}, TURNS[1]]},
        *BOTH,
    ),
    "several parts, with the nulls of a table": (
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "hi", "image_url": None},
                        {"type": "text", "text": "there", "image_url": None},
                    ],
                }
            ]
        },
        "<user> hi\nthere <assistant>",
        "User: hi\nthere",
    ),
    "null content with tool_calls": (
        {"messages": [TURNS[0], {"role": "assistant", "content": None, "tool_calls": [CALL]}]},
        f"<user> hi <assistant> {CALL_TEXT} ",
        f"User: hi\n\nAssistant: {CALL_TEXT}",
    ),
    "no content with tool_calls": (
        {"messages": [{"role": "assistant", "tool_calls": [CALL["function"]]}]},
        f"<assistant> {CALL_TEXT} ",
        f"Assistant: {CALL_TEXT}",
    ),
    "content and tool_calls": (
        {"messages": [{"role": "assistant", "content": "Well.", "tool_calls": json.dumps([CALL])}]},
        f"<assistant> Well.\n{CALL_TEXT} ",
        f"Assistant: Well.\n{CALL_TEXT}",
    ),
    "function_call": (
        {"messages": [{"role": "assistant", "content": None, "function_call": CALL["function"]}]},
        f"<assistant> {CALL_TEXT} ",
        f"Assistant: {CALL_TEXT}",
    ),
    "prompt and completion": (
        {"prompt": "2+2=", "completion": "4"},
        "<user> 2+2= <assistant> 4 ",
        "2+2=4",
    ),
    "prompt and completion of messages": (
        {"prompt": TURNS[:1], "completion": TURNS[1:]},
        *BOTH,
    ),
    "prompt of messages, completion of text": ({"prompt": TURNS[:1], "completion": "yes"}, *BOTH),
    "Alpaca": (
        {"instruction": "Add.", "input": "2 2", "output": "4"},
        "<user> Add.\n\n2 2 <assistant> 4 ",
        "User: Add.\n\n2 2\n\nAssistant: 4",
    ),
    "Alpaca without input": ({"instruction": "hi", "input": "", "output": "yes"}, *BOTH),
    "Alpaca with system": (
        {"instruction": "hi", "output": "yes", "system": "Be kind.", "input": None},
        "<system> Be kind. " + BOTH[0],
        "System: Be kind.\n\n" + BOTH[1],
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_that_are_taken(form: str, chat_tokenizer: Any, tokenizer: Any) -> None:
    row, by_template, plain = FORMS[form]
    for model, text in ((chat_tokenizer, "<s>" + by_template), (tokenizer, f"<s>{plain}</s>")):
        record = to_record(row, "f:1")
        assert isinstance(record, Chat)
        ids = make_encoder(model).document(record, 999, apply_chat=False, system_prompt=None)
        assert model.decode(ids) == text


REFUSED: dict[str, tuple[Any, str, str]] = {
    "an unknown speaker": (
        {"conversations": [{"from": "narrator", "value": "hi"}]},
        "f:1, message 0: 'from' is 'narrator', and may be one of human, user, gpt",
        "'from', 'value'",
    ),
    "no role": (
        {"messages": [TURNS[0], {"text": "hi", "n": 1}]},
        "f:1, message 1: neither 'role' nor 'from' is a text in it",
        "'text', 'n'",
    ),
    "no content": (
        {"messages": [{"role": "user", "text": "hi"}]},
        "f:1, message 0: there is no 'content' in it",
        "'role', 'text'",
    ),
    "content of another type": (
        {"messages": [{"role": "user", "content": 3}]},
        "f:1, message 0: 'content' is a value of type int, not a text or a list of parts",
        "'role', 'content'",
    ),
    "parts that are texts": (
        {"messages": [{"role": "user", "content": ["hi"]}]},
        "f:1, message 0: a part of 'content' is not a mapping with a 'type'",
        "'role', 'content'",
    ),
    "a part without its text": (
        {"messages": [{"role": "user", "content": [{"type": "text", "content": "hi"}]}]},
        "f:1, message 0: a part of 'content' has no 'text'",
        "'type', 'content'",
    ),
    "tool calls of another form": (
        {"messages": [{"role": "assistant", "content": None, "tool_calls": ["weather"]}]},
        'f:1, message 0: its tool_calls are not a list of {"function": {"name": ...',
        "'role', 'content', 'tool_calls'",
    ),
    "an instruction that is no text": (
        {"instruction": ["a"], "output": "b"},
        "f:1: 'instruction' is a list of str, not a text",
        "'instruction', 'output'",
    ),
}


@pytest.mark.parametrize("form", REFUSED)
def test_one_message_names_row_problem_fields_and_legal_forms(form: str) -> None:
    row, start, fields = REFUSED[form]
    with pytest.raises(DataError) as caught:
        to_record(row, "f:1")
    message = str(caught.value)
    assert not isinstance(caught.value, UnusableError)
    assert message.startswith(start)
    assert f"; fields found: {fields}. Legal forms: a text, " in message
    assert message.count("Legal forms") == message.count("fields found") == 1


def test_what_lists_should_be_is_said_without_fields() -> None:
    for row, part in (
        (
            {"prompt": 3, "completion": "a"},
            "f:1: a list of messages is needed, not a value of type",
        ),
        ({"messages": '[{"role": ', "id": 1}, "f:1: a list of messages is needed, not a value"),
        ({"messages": TURNS, "tools": "none"}, "f:1: 'tools' is a value of type str, not a list"),
        ({"prompt": ["hi"], "completion": "a"}, "f:1, message 0: a mapping is needed, not a value"),
    ):
        with pytest.raises(DataError) as caught:
            to_record(row, "f:1")
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (
            {"messages": [{"role": "user", "content": None}]},
            "f:1, message 0: 'content' is null, and there are no tool_calls",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "f:1, message 0: 'content' has a part of type 'image_url', and only parts of type "
            "'text' are read here (images go into calibration.images)",
        ),
        (
            {"messages": [{"role": "user", "content": " "}]},
            "f:1: the conversation has no text in it",
        ),
        ({"prompt": "", "completion": ""}, "f:1: the conversation has no text in it"),
        ({"prompt": [], "completion": "a"}, "f:1: the conversation is an empty list"),
        ({"instruction": "", "output": ""}, "f:1: the conversation has no text in it"),
    ],
)
def test_legal_rows_that_are_of_no_use(row: Any, reason: str) -> None:
    assert to_record(row, "f:1") == Unusable(reason, "f:1")


def test_ids_and_names_of_tools_are_kept_for_the_template() -> None:
    result = {"role": "tool", "content": "sunny", "tool_call_id": "a1", "name": "weather", "x": 1}
    row = {"messages": [{"role": "assistant", "tool_calls": [CALL]}, result], "tools": [CALL]}
    record = to_record(row, "f:1")
    assert isinstance(record, Chat)
    assert record.messages[1].beside == {"tool_call_id": "a1", "name": "weather"}
    assert record.messages[0].tool_calls[0]["id"] == "a1"
    assert record.tools == (CALL,)
