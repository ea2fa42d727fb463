"""The forms in which one record of a dataset may come."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from autoround.errors import DataError

#: Characters (or ids) that one record may hold; a longer one is refused, not cut.
MAX_RECORD_CHARS = 64 * 2**20

#: Of a Python int in a tuple.
_BYTES_PER_ID = 32
_SURROGATE = re.compile("[\ud800-\udfff]")
_FORMS = '{"text": ...}, {"input_ids": [...]}, {"messages": [{"role": ..., "content": ...}]}'


@dataclass(frozen=True, slots=True)
class Text:
    """Plain text, and the place it came from."""

    text: str
    where: str


@dataclass(frozen=True, slots=True)
class Chat:
    """Messages of one conversation as (role, content), and the place they came from."""

    messages: tuple[tuple[str, str], ...]
    where: str


@dataclass(frozen=True, slots=True)
class Ids:
    """Token ids as they are, and the place they came from."""

    ids: tuple[int, ...]
    where: str


Record: TypeAlias = Text | Chat | Ids


def to_record(
    value: object, where: str, *, key: str | None = None, prefer_chat: bool = False
) -> Record:
    """Turn one decoded value (string, list or mapping) into a record.

    key: the field that holds the content; None tries text, input_ids, messages, conversations,
    and last the only field of a mapping. prefer_chat tries the message fields first.

    Raises: DataError with ``where`` and the fields found, when no form fits.
    """
    if isinstance(value, Mapping):
        return _content(_pick(value, where, key=key, prefer_chat=prefer_chat), where)
    if key is not None:
        raise DataError(
            f"{where}: key={key} was asked, but the record is {_kind(value)}, not a mapping"
        )
    return _content(value, where)


def size(record: Record) -> int:
    """Estimate the bytes of memory a record holds."""
    if isinstance(record, Text):
        return len(record.text)
    if isinstance(record, Ids):
        return _BYTES_PER_ID * len(record.ids)
    return sum(len(content) for _, content in record.messages)


def _pick(
    fields: Mapping[object, object], where: str, *, key: str | None, prefer_chat: bool
) -> object:
    found = ", ".join(repr(name) for name in list(fields)[:20]) or "none"
    if key is not None:
        if key not in fields:
            raise DataError(f"{where}: no field {key!r}; fields found: {found}")
        return fields[key]
    names = ["text", "input_ids", "messages", "conversations"]
    if prefer_chat:
        names = names[2:] + names[:2]
    for name in names:
        if name in fields:
            return fields[name]
    if len(fields) == 1:
        return next(iter(fields.values()))
    raise DataError(
        f"{where}: no field with text; fields found: {found}. Legal forms: {_FORMS}, or name the "
        "field with ':key=FIELD'"
    )


def _content(value: object, where: str) -> Record:
    if isinstance(value, str):
        _check_size(len(value), where)
        return Text(_checked(value, where), where)
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        _check_size(len(value), where)
        if value and all(type(item) is int for item in value):
            return Ids(tuple(value), where)
        if value and all(isinstance(item, Mapping) for item in value):
            record = Chat(
                tuple(_message(item, f"{where}, message {i}") for i, item in enumerate(value)),
                where,
            )
            _check_size(size(record), where)
            return record
    raise DataError(
        f"{where}: a text, a list of token ids or a list of messages is needed, "
        f"not {_kind(value)}. Legal forms: a string, {_FORMS}, or name the field with ':key=FIELD'"
    )


def _message(item: Mapping[object, object], where: str) -> tuple[str, str]:
    role, content = item.get("role"), item.get("content")
    if not isinstance(role, str) or not isinstance(content, str):
        found = ", ".join(repr(name) for name in list(item)[:20]) or "none"
        raise DataError(
            f"{where}: the strings 'role' and 'content' are needed; fields found: {found}"
        )
    return _checked(role, where), _checked(content, where)


def _check_size(count: int, where: str) -> None:
    if count > MAX_RECORD_CHARS:
        raise DataError(
            f"{where}: one record of {count} characters is over the limit of {MAX_RECORD_CHARS}: "
            "split it into several records, or give it as a .txt file"
        )


def _checked(text: str, where: str) -> str:
    # JSON can escape half of a surrogate pair; no tokenizer can encode that.
    bad = _SURROGATE.search(text)
    if bad:
        raise DataError(
            f"{where}: character {bad.start()} is an unpaired surrogate "
            f"(U+{ord(bad.group()):04X}), which is not valid Unicode text"
        )
    return text


def _kind(value: object) -> str:
    if isinstance(value, (list, tuple)):
        inner = sorted({type(item).__name__ for item in value[:100]})
        return f"a list of {' and '.join(inner)}" if inner else "an empty list"
    return f"a value of type {type(value).__name__}"
