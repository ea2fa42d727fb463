from __future__ import annotations

import datetime
from typing import Any

import pytest

from autoround.data.chats import Chat, Message
from autoround.data.forms import UnusableError
from autoround.data.rendering import plain_chat, render_chat
from autoround.errors import DataError

CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Rom"}}}
ASKED = (Message("user", "Rain?"), Message("assistant", "", tool_calls=(CALL,)))

#: The ways in which published templates write a message.
TOOLS_AS_MAPPING = (
    "{% for t in tools or [] %}[{{ t.name }}]{% endfor %}{% for m in messages %}"
    "{{ m.role }}: {{ m.content }}{% for c in m.tool_calls or [] %}"
    "{{ c.function.name }}({% for k, v in c.function.arguments.items() %}{{ k }}={{ v }}"
    "{% endfor %}){% endfor %};{% endfor %}"
)
TOOLS_AS_TEXT = (
    "{% for m in messages %}{{ m.role + ': ' + m.content }}{% for c in m.tool_calls or [] %}"
    "{{ c.function.name + ' ' + c.function.arguments }}{% endfor %};{% endfor %}"
)
NO_TOOLS = "{% for m in messages %}{{ m.role }}: {{ m.content.strip() }};{% endfor %}"
PARTS_ONLY = (
    "{% for m in messages %}{{ m.role }}: {% for p in m.content %}{% if p.type == 'text' %}"
    "{{ p.text }}{% endif %}{% endfor %};{% endfor %}"
)
NOTHING = "{% for m in messages %}.{% endfor %}"
NO_REASONING = (
    "{% for m in messages %}{{ m.role }}: {{ m.content.split('</think>')[-1] }};{% endfor %}"
)


class Templated:
    """The chat template of a tokenizer, and how often it was asked."""

    def __init__(self, template: str) -> None:
        from tokenizers import Tokenizer, models
        from transformers import PreTrainedTokenizerFast

        backend = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
        self._tokenizer: Any = PreTrainedTokenizerFast(tokenizer_object=backend)
        self._tokenizer.chat_template = template
        self.asked = 0

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any:
        self.asked += 1
        return self._tokenizer.apply_chat_template(conversation, **options)


def rendered(template: str, *messages: Message, **fields: Any) -> str:
    return render_chat(Templated(template), Chat(messages, "f:1", **fields), system_prompt=None)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (TOOLS_AS_MAPPING, "user: Rain?;assistant: weather(city=Rom);"),
        (TOOLS_AS_TEXT, 'user: Rain?;assistant: weather {"city": "Rom"};'),
        (NO_TOOLS, 'user: Rain?;assistant: {"name": "weather", "arguments": {"city": "Rom"}};'),
    ],
)
def test_tool_calls_come_in_the_form_the_template_knows(template: str, text: str) -> None:
    assert rendered(template, *ASKED) == text


def test_arguments_that_json_does_not_know_are_written_as_text() -> None:
    day = {"name": "weather", "arguments": {"day": datetime.date(2024, 2, 29)}}
    message = Message("assistant", "", tool_calls=({"type": "function", "function": day},))
    call = '{"name": "weather", "arguments": {"day": "2024-02-29"}}'
    assert plain_chat(Chat((message,), "f:1"), system_prompt=None) == f"Assistant: {call}"


def test_tools_are_given_to_the_template() -> None:
    assert rendered(TOOLS_AS_MAPPING, ASKED[0], tools=({"name": "w"},)) == "[w]user: Rain?;"


def test_a_template_of_parts_gets_parts() -> None:
    assert rendered(PARTS_ONLY, Message("user", "hi"), Message("assistant", "yes")) == (
        "user: hi;assistant: yes;"
    )


def test_the_usual_form_is_rendered_once() -> None:
    tokenizer = Templated(NO_TOOLS)
    render_chat(tokenizer, Chat((Message("user", "hi"),), "f:1"), system_prompt=None)
    assert tokenizer.asked == 1


def test_reasoning_that_a_template_leaves_out_may_be_missing() -> None:
    turns = (Message("user", "hi"), Message("assistant", "<think>\nlong thought\n</think>yes"))
    assert rendered(NO_REASONING, *turns) == "user: hi;assistant: yes;"


def test_a_text_about_parts_is_no_sign_of_them() -> None:
    content = "content=[{'type': 'text', 'text': 'hi'}]"
    assert rendered(NO_TOOLS, Message("user", content)) == f"user: {content};"


def test_a_template_that_leaves_all_out_makes_the_row_unusable() -> None:
    with pytest.raises(UnusableError, match=r"f:1: .* roles user: none of its contents is in the"):
        rendered(NOTHING, Message("user", "hi"))


def test_what_the_template_says_is_in_the_reason() -> None:
    strict = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(UnusableError, match="of roles user, user: roles must alternate"):
        rendered(strict, Message("user", "a"), Message("user", "b"))


def test_a_system_prompt_that_is_refused_is_no_matter_of_the_row() -> None:
    strict = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + NO_TOOLS
    )
    chat = Chat((Message("user", "hi"),), "f:1")
    with pytest.raises(DataError, match="refuses a system message") as caught:
        render_chat(Templated(strict), chat, system_prompt="Be kind.")
    assert not isinstance(caught.value, UnusableError)


def test_the_plain_form() -> None:
    chat = Chat((Message("system", "Old."), *ASKED), "f:1")
    call = '{"name": "weather", "arguments": {"city": "Rom"}}'
    assert (
        plain_chat(chat, system_prompt=None) == f"System: Old.\n\nUser: Rain?\n\nAssistant: {call}"
    )
    assert plain_chat(chat, system_prompt="New.").startswith("System: New.\n\nUser: Rain?")
    pair = Chat((Message("user", "2+2="), Message("assistant", "4")), "f:1", plain="2+2=4")
    assert plain_chat(pair, system_prompt=None) == "2+2=4"
    assert plain_chat(pair, system_prompt="Add.") == "System: Add.\n\nUser: 2+2=\n\nAssistant: 4"
