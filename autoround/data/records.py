"""One row of a dataset as what is made tokens of: a text, token ids, or a conversation."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from autoround.data.chats import Chat, read_chat, read_completion, read_instruction
from autoround.data.forms import (
    UnusableError,
    kind_of,
    names_of,
    pick_form,
    refusal,
)
from autoround.errors import DataError

#: Characters (or ids) that one record may hold; a longer one is refused, not cut.
MAX_RECORD_CHARS = 64 * 2**20

#: Of a Python int in a tuple.
_BYTES_PER_ID = 32
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Text:
    """Plain text, and the place it came from."""

    text: str
    where: str


@dataclass(frozen=True, slots=True)
class Ids:
    """Token ids as they are, and the place they came from."""

    ids: tuple[int, ...]
    where: str


@dataclass(frozen=True, slots=True)
class Unusable:
    """A row of a legal form that is of no use; reason names the row."""

    reason: str
    where: str


Record: TypeAlias = Text | Chat | Ids | Unusable


def to_record(
    value: object, where: str, *, key: str | None = None, prefer_chat: bool = False
) -> Record:
    """Turn one decoded value (string, list or mapping) into a record.

    Args:
        value: the row.
        where: the row in words, for messages.
        key: the field that holds the content; None tries the forms that are known, and last the
            only field of a mapping.
        prefer_chat: try conversations first.

    Returns:
        The record; Unusable where the row has a legal form and nothing to read in it.

    Raises:
        DataError: no form fits; it names the row, the fields found and the legal forms.
    """
    try:
        record = _record(value, where, key=key, prefer_chat=prefer_chat)
    except UnusableError as error:
        return Unusable(str(error), where)
    _check(record)
    return record


def size(record: Record) -> int:
    """Estimate the bytes of memory a record holds."""
    if isinstance(record, Ids):
        return _BYTES_PER_ID * len(record.ids)
    if isinstance(record, Chat):
        return sum(map(len, _texts(record)))
    return len(record.text if isinstance(record, Text) else record.reason)


def _record(value: object, where: str, *, key: str | None, prefer_chat: bool) -> Record:
    if not isinstance(value, Mapping):
        if key is not None:
            raise DataError(
                f"{where}: key={key} was asked, but the record is {kind_of(value)}, not a mapping"
            )
        return _content(value, where, row={})
    if key is not None:
        if key not in value:
            raise DataError(f"{where}: no field {key!r}; fields found: {names_of(value)}")
        return _content(value[key], where, row=value, name=key)
    form = pick_form(value, prefer_chat=prefer_chat)
    if form is None:
        if len(value) != 1:
            raise refusal(where, "no field with text", value)
        ((name, content),) = value.items()
        return _content(content, where, row=value, name=str(name))
    for part in form:
        if value[part] is None:
            raise UnusableError(f"{where}: {part!r} is null")
    if form == ("prompt", "completion"):
        return read_completion(value, where)
    if form == ("instruction", "output"):
        return read_instruction(value, where)
    return _content(value[form[0]], where, row=value, name=form[0])


def _content(value: object, where: str, *, row: Mapping[object, object], name: str = "") -> Record:
    """Read the content of a row: a text, token ids, or messages."""
    if isinstance(value, str):
        # Some tables hold conversations as JSON.
        is_chat = name in ("messages", "conversations") and value.lstrip().startswith("[{")
        return read_chat(value, where, row=row) if is_chat else Text(value, where)
    if isinstance(value, Mapping) and ("role" in value or "from" in value):
        return read_chat(value, where, row=row)
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        _check_size(len(value), where)
        if not value:
            raise UnusableError(f"{where}: {repr(name) + ' is ' if name else ''}an empty list")
        if all(type(item) is int for item in value):
            return Ids(tuple(value), where)
        if all(isinstance(item, Mapping) for item in value):
            return read_chat(value, where, row=row)
    if value is None and name:
        raise UnusableError(f"{where}: {name!r} is null")
    problem = f"{repr(name) + ' is ' if name else ''}{kind_of(value)}"
    raise refusal(where, f"{problem}, not a text, token ids or messages", row or None)


def _check(record: Record) -> None:
    """Refuse what is too large, or no text that a tokenizer can read."""
    if not isinstance(record, (Text, Chat)):
        return
    _check_size(size(record), record.where)
    for text in (record.text,) if isinstance(record, Text) else _texts(record):
        # JSON can escape half of a surrogate pair; no tokenizer can encode that.
        bad = _SURROGATE.search(text)
        if bad:
            raise DataError(
                f"{record.where}: character {bad.start()} is an unpaired surrogate "
                f"(U+{ord(bad.group()):04X}), which is not valid Unicode text"
            )


def _texts(chat: Chat) -> list[str]:
    """Return all texts of a conversation."""
    texts = [text for m in chat.messages for text in (m.content, *m.beside.values())]
    calls = [list(m.tool_calls) for m in chat.messages if m.tool_calls]
    others = [json.dumps(x, ensure_ascii=False, default=str) for x in (*calls, chat.tools) if x]
    return texts + others


def _check_size(count: int, where: str) -> None:
    if count > MAX_RECORD_CHARS:
        raise DataError(
            f"{where}: one record of {count} characters is over the limit of {MAX_RECORD_CHARS}: "
            "split it into several records, or give it as a .txt file"
        )
