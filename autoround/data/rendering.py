"""A conversation as one text: by the chat template of the tokenizer, or in a plain form."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeAlias

from autoround.data.chats import Chat, Message
from autoround.data.forms import UnusableError
from autoround.errors import AutoRoundError, DataError

#: Says in plans and reports that no template was there to render conversations by.
PLAIN_CHATS = "conversations as plain text (the tokenizer has no chat template)"

_Turns: TypeAlias = list[dict[str, Any]]


class ChatTokenizer(Protocol):
    """What is used of a tokenizer that has a chat template."""

    def apply_chat_template(
        self, conversation: Any, *, tools: Any, tokenize: bool, add_generation_prompt: bool
    ) -> Any:
        """Return a conversation as one string when ``tokenize`` is False."""


def plain_chat(chat: Chat, *, system_prompt: str | None) -> str:
    """Write a conversation for a tokenizer without chat template.

    Messages are ``Role: text``, an empty line between them, tool calls as lines of JSON; a prompt
    and its completion, where both are texts, follow each other as they are.

    Args:
        chat: the conversation.
        system_prompt: takes the place of its system message; None keeps that.
    """
    if chat.plain is not None and system_prompt is None:
        return chat.plain
    turns = (_with_calls_as_text(m) for m in _with_system(chat.messages, system_prompt))
    return "\n\n".join(f"{m.role.capitalize()}: {m.content}" for m in turns)


def render_chat(tokenizer: ChatTokenizer, chat: Chat, *, system_prompt: str | None) -> str:
    """Write a conversation by the chat template of the tokenizer.

    Templates differ in how they want tool calls and contents: the forms they may have are tried
    until the text has the contents and the names of all functions that are called.

    Args:
        tokenizer: with a chat template.
        chat: the conversation.
        system_prompt: takes the place of its system message; None keeps that.

    Raises:
        UnusableError: the template refuses the conversation, or leaves all of it out.
        DataError: the template refuses or drops the system prompt.
    """
    messages = _with_system(chat.messages, system_prompt)
    text = _first_text(tokenizer, messages, tools=chat.tools)
    if isinstance(text, Exception):
        if system_prompt is not None and _renders_without_system(tokenizer, chat):
            raise DataError(
                f"{chat.where}: the model's chat template refuses a system message ({text}): "
                "leave system_prompt out"
            ) from text
        raise UnusableError(
            f"{chat.where}: the model's chat template refuses this conversation of roles "
            f"{', '.join(message.role for message in messages[:8])}: {text}"
        ) from text
    if system_prompt is not None and system_prompt.strip() not in text:
        raise DataError(
            f"{chat.where}: the model's chat template drops the system message: "
            "leave system_prompt out"
        )
    return text


def _with_system(messages: tuple[Message, ...], system_prompt: str | None) -> tuple[Message, ...]:
    if system_prompt is None:
        return messages
    rest = (message for message in messages if message.role != "system")
    return (Message("system", system_prompt), *rest)


def _renders_without_system(tokenizer: ChatTokenizer, chat: Chat) -> bool:
    rest = tuple(message for message in chat.messages if message.role != "system")
    return bool(rest) and isinstance(_first_text(tokenizer, rest, tools=chat.tools), str)


def _first_text(
    tokenizer: ChatTokenizer, messages: tuple[Message, ...], *, tools: Sequence[Any]
) -> str | Exception:
    """Return the first text that has in it what the messages say, or the first thing wrong."""
    problem: Exception | None = None
    # A conversation that ends with the user or a tool is one the model is about to answer.
    to_answer = messages[-1].role in ("user", "tool")
    for turns in _versions(messages):
        try:
            text = tokenizer.apply_chat_template(
                turns, tools=list(tools) or None, tokenize=False, add_generation_prompt=to_answer
            )
        except AutoRoundError:
            raise  # it takes more time or memory than it may
        except Exception as error:
            # Templates raise whatever they like; their text is the best explanation there is.
            problem = problem or error
            continue
        if not isinstance(text, str):
            problem = problem or TypeError(f"it gave {type(text).__name__} instead of text")
        elif _says(text, messages):
            return text
    return problem or ValueError("none of its contents is in the text that the template gives")


def _versions(messages: tuple[Message, ...]) -> Iterator[_Turns]:
    """Yield the messages in the forms that templates may want, the usual one first."""
    turns = [_turn(message) for message in messages]
    yield turns
    if any(message.tool_calls for message in messages):
        yield [_with_arguments_as_text(turn) for turn in turns]
        yield [_turn(_with_calls_as_text(message)) for message in messages]
    yield [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in turns]


def _turn(message: Message) -> dict[str, Any]:
    calls = {"tool_calls": list(message.tool_calls)} if message.tool_calls else {}
    return {"role": message.role, "content": message.content, **calls, **message.beside}


def _with_arguments_as_text(turn: dict[str, Any]) -> dict[str, Any]:
    if "tool_calls" not in turn:
        return turn
    functions = [call["function"] for call in turn["tool_calls"]]
    texts = [_as_json(function["arguments"]) for function in functions]
    calls = [
        {**call, "function": {**function, "arguments": text}}
        for call, function, text in zip(turn["tool_calls"], functions, texts, strict=True)
    ]
    return {**turn, "tool_calls": calls}


def _with_calls_as_text(message: Message) -> Message:
    """Put the tool calls of a message into its text, each a line of JSON."""
    lines = [_as_json(c["function"]) for c in message.tool_calls]
    content = "\n".join([message.content] * bool(message.content) + lines)
    return replace(message, content=content, tool_calls=())


def _as_json(value: object) -> str:
    # Tables may hold dates and bytes, which JSON does not know.
    return json.dumps(value, ensure_ascii=False, default=str)


def _says(text: str, messages: tuple[Message, ...]) -> bool:
    """Tell whether a text has the functions that are called in it, and any of the contents.

    Not all contents: templates leave out reasoning of earlier turns. A template that does not
    know parts writes them as Python does.
    """
    calls = [call["function"]["name"] for message in messages for call in message.tool_calls]
    contents = [message.content.strip() for message in messages if message.content.strip()]
    lines = [max(content.splitlines(), key=len).strip() for content in contents]
    as_python = "{'type': 'text'"
    return (
        all(name in text for name in calls)
        and (not lines or any(line in text for line in lines))
        and (as_python not in text or any(as_python in content for content in contents))
    )
