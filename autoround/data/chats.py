"""Conversations in the forms that datasets have them, as one: messages with a role and a text.

Read are messages of OpenAI (``role``, ``content`` as a text or as parts, ``tool_calls``) and of
ShareGPT (``from``, ``value``), prompts with their completions, and Alpaca's instructions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from autoround.data.forms import UnusableError, kind_of, refusal

#: Who speaks in ShareGPT's form -> the role it is in a chat template.
SPEAKERS: Mapping[str, str] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "function_call": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
}
_TEXT_PARTS = ("text", "input_text", "output_text")
#: Fields of a message that chat templates know beside role, content and tool_calls.
_BESIDE = ("name", "tool_call_id", "reasoning_content")


@dataclass(frozen=True, slots=True)
class Message:
    """One message.

    tool_calls: as chat templates expect them, ``{"type": "function", "function": {"name": ...,
    "arguments": ...}}``. beside: other fields that templates know.
    """

    role: str
    content: str
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    beside: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Chat:
    """One conversation, and the place it came from.

    tools: descriptions of functions, for the chat template. plain: its text for a tokenizer
    without chat template, where that is not the one of other conversations.
    """

    messages: tuple[Message, ...]
    where: str
    tools: tuple[Mapping[str, Any], ...] = ()
    plain: str | None = None


def read_chat(value: object, where: str, *, row: Mapping[object, object] | None = None) -> Chat:
    """Read a list of messages.

    Args:
        value: a list of messages, its JSON, or a mapping of columns (``role``, ``content``).
        where: the row.
        row: the fields beside the list; ``system`` and ``tools`` are used.

    Raises:
        UnusableError: there is nothing to read, or images and the like.
        DataError: it has none of the legal forms.
    """
    row = row or {}
    messages = _messages(value, where)
    system = row.get("system")
    if isinstance(system, str) and system and messages[0].role != "system":
        messages = (Message("system", system), *messages)
    return _filled(Chat(messages, where, tools=_tools(row.get("tools"), where)))


def read_completion(row: Mapping[object, object], where: str) -> Chat:
    """Read a prompt and its completion, each a text or a list of messages.

    Args:
        row: with ``prompt`` and ``completion``.
        where: the row.

    Raises:
        UnusableError, DataError: as for read_chat.
    """
    sides = [(row["prompt"], "user"), (row["completion"], "assistant")]
    texts = [side for side, _ in sides if isinstance(side, str)]
    messages = [
        message
        for side, role in sides
        for message in ((Message(role, side),) if isinstance(side, str) else _messages(side, where))
    ]
    plain = "".join(texts) if len(texts) == 2 else None
    return _filled(Chat(tuple(messages), where, _tools(row.get("tools"), where), plain))


def read_instruction(row: Mapping[object, object], where: str) -> Chat:
    """Read an instruction, what it is about, and the answer.

    Args:
        row: with ``instruction`` and ``output``; ``input`` and ``system`` may be there.
        where: the row.

    Raises:
        UnusableError, DataError: as for read_chat.
    """
    for name in ("instruction", "input", "output", "system"):
        if not isinstance(row.get(name), (str, type(None))):
            raise refusal(where, f"{name!r} is {kind_of(row[name])}, not a text", row)
    question = "\n\n".join(str(row[n]) for n in ("instruction", "input") if row.get(n))
    turns = (("system", row.get("system")), ("user", question), ("assistant", row["output"]))
    return _filled(Chat(tuple(Message(role, str(text)) for role, text in turns if text), where))


def _filled(chat: Chat) -> Chat:
    """Return a conversation that says something, or refuse it."""
    if not any(message.content.strip() or message.tool_calls for message in chat.messages):
        raise UnusableError(f"{chat.where}: the conversation has no text in it")
    return chat


def _messages(value: object, where: str) -> tuple[Message, ...]:
    if isinstance(value, str):
        value = _from_json(value)
    if isinstance(value, Mapping) and all(isinstance(c, (list, tuple)) for c in value.values()):
        # What `datasets` makes of a sequence of structs: a list for each field.
        columns = list(value.values())
        if len({len(column) for column in columns}) <= 1:
            value = [dict(zip(value, items, strict=True)) for items in zip(*columns, strict=True)]
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        raise refusal(where, f"a list of messages is needed, not {kind_of(value)}")
    if not value:
        raise UnusableError(f"{where}: the conversation is an empty list")
    return tuple(_message(item, f"{where}, message {i}") for i, item in enumerate(value))


def _message(item: object, where: str) -> Message:
    if not isinstance(item, Mapping):
        raise refusal(where, f"a mapping is needed, not {kind_of(item)}")
    role, speaker = item.get("role"), item.get("from")
    if isinstance(role, str):
        calls = _tool_calls(item, where)
        beside = {n: text for n in _BESIDE if isinstance(text := item.get(n), str) and text}
        content = item.get("content")
        if content is None and calls:
            return Message(role, "", calls, beside)
        return Message(role, _text(content, "content", where, fields=item), calls, beside)
    if isinstance(speaker, str):
        if speaker.lower() not in SPEAKERS:
            known = ", ".join(SPEAKERS)
            raise refusal(where, f"'from' is {speaker!r}, and may be one of {known}", item)
        text = _text(item.get("value"), "value", where, fields=item)
        return Message(SPEAKERS[speaker.lower()], text)
    raise refusal(where, "neither 'role' nor 'from' is a text in it", item)


def _text(value: object, name: str, where: str, *, fields: Mapping[object, object]) -> str:
    """Return the text of a message's content, its parts joined by line breaks."""
    if isinstance(value, str):
        return value
    if value is None:
        if name not in fields:
            raise refusal(where, f"there is no {name!r} in it", fields)
        raise UnusableError(f"{where}: {name!r} is null, and there are no tool_calls")
    if not isinstance(value, (list, tuple)):
        raise refusal(where, f"{name!r} is {kind_of(value)}, not a text or a list of parts", fields)
    texts = []
    for part in value:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if not isinstance(part, Mapping) or not isinstance(kind, str):
            raise refusal(where, f"a part of {name!r} is not a mapping with a 'type'", fields)
        if kind not in _TEXT_PARTS:
            raise UnusableError(
                f"{where}: {name!r} has a part of type {kind!r}, and only parts of type 'text' are "
                "read here (images go into calibration.images)"
            )
        text = part.get("text")
        if not isinstance(text, str):
            raise refusal(where, f"a part of {name!r} has no 'text'", part)
        texts.append(text)
    return "\n".join(texts)


def _tool_calls(item: Mapping[object, object], where: str) -> tuple[Mapping[str, Any], ...]:
    calls = item.get("tool_calls") or item.get("function_call") or []
    if isinstance(calls, str):
        calls = _from_json(calls)
    if not isinstance(calls, (list, tuple)):
        calls = [calls]
    functions = [call.get("function") or call for call in calls if isinstance(call, Mapping)]
    if len(functions) < len(calls) or not all(map(_is_function, functions)):
        legal = '{"function": {"name": ..., "arguments": ...}}'
        raise refusal(where, f"its tool_calls are not a list of {legal}", item)
    return tuple(_tool_call(*pair) for pair in zip(calls, functions, strict=True))


def _is_function(value: object) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("name"), str)


def _tool_call(call: Mapping[str, Any], function: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a call as templates expect it, its arguments decoded where they are JSON."""
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        decoded = _from_json(arguments)
        arguments = decoded if isinstance(decoded, dict) else arguments
    whole = {"name": function["name"], "arguments": {} if arguments is None else arguments}
    identity = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
    return {**identity, "type": "function", "function": whole}


def _tools(value: object, where: str) -> tuple[Mapping[str, Any], ...]:
    if isinstance(value, str):
        value = _from_json(value) if value.strip() else None
    if not value:
        return ()
    if not isinstance(value, (list, tuple)) or not all(isinstance(t, Mapping) for t in value):
        raise refusal(
            where, f"'tools' is {kind_of(value)}, not a list of descriptions of functions"
        )
    return tuple(value)


def _from_json(text: str) -> Any:
    """Return what a text is the JSON of, or the text where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
