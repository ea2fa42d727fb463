"""The forms in which a row of a dataset may come, and how a row of another form is refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from autoround.errors import DataError

#: Fields that together are the content of a row, in the order in which they are tried.
TEXT_FORMS: tuple[tuple[str, ...], ...] = (("text",), ("input_ids",))
CHAT_FORMS: tuple[tuple[str, ...], ...] = (
    ("messages",),
    ("conversations",),
    ("prompt", "completion"),
    ("instruction", "output"),
)
#: Fields that are read beside those.
_BESIDE = ("input", "system", "tools")

_LEGAL = (
    'a text, {"text": ...}, {"input_ids": [...]}, '
    '{"messages": [{"role": ..., "content": ...}]} with contents that are a text or a list of '
    '{"type": "text", "text": ...}, {"conversations": [{"from": "human", "value": ...}]}, '
    '{"prompt": ..., "completion": ...}, {"instruction": ..., "input": ..., "output": ...}, '
    "any other field by ':key=FIELD'"
)


class UnusableError(DataError):
    """A row of a legal form that is of no use to this model: it is left out and counted."""


def refusal(where: str, problem: str, fields: Iterable[object] | None = None) -> DataError:
    """Make the error of a row that has none of the legal forms.

    Args:
        where: the row.
        problem: what is wrong with it.
        fields: names of the fields it has, where it has any.
    """
    names = "" if fields is None else f"; fields found: {names_of(fields)}"
    return DataError(f"{where}: {problem}{names}. Legal forms: {_LEGAL}")


def pick_form(fields: Mapping[object, object], *, prefer_chat: bool) -> tuple[str, ...] | None:
    """Return the fields that are the content of a row, or None where it has no known form.

    Args:
        fields: the row.
        prefer_chat: try conversations before texts and token ids.
    """
    forms = CHAT_FORMS + TEXT_FORMS if prefer_chat else TEXT_FORMS + CHAT_FORMS
    complete = [form for form in forms if all(name in fields for name in form)]
    # Rows of several forms in one table have a null for each field of the others.
    full = [form for form in complete if all(fields[name] is not None for name in form)]
    return next(iter(full or complete), None)


def columns_to_read(names: Sequence[str]) -> list[str] | None:
    """Return the columns of a table that rows are made of; None for all, where no form is known.

    Args:
        names: of all columns.
    """
    fields: dict[object, object] = dict.fromkeys(names, "")
    if pick_form(fields, prefer_chat=False) is None:
        return None
    known = {name for form in TEXT_FORMS + CHAT_FORMS for name in form} | set(_BESIDE)
    return [name for name in names if name in known]


def is_message(value: object) -> bool:
    """Tell whether a value is one message of a conversation, in either spelling."""
    if not isinstance(value, Mapping) or pick_form(value, prefer_chat=False) is not None:
        return False
    pairs = (("role", "content"), ("from", "value"), ("role", "tool_calls"))
    return any(isinstance(value.get(role), str) and text in value for role, text in pairs)


def rows_of(value: object) -> list[object] | None:
    """Return the rows of a decoded value, or None where it holds none.

    A list is a list of rows, or of the messages of one conversation; a mapping is a row, or has
    rows or columns of equal length.

    Args:
        value: as JSON or Python gave it.
    """
    if isinstance(value, list):
        return [value] if value and all(map(is_message, value)) else value
    if not isinstance(value, Mapping) or not value:
        return None
    if _is_row(value):
        return [value]
    columns = dict(value)
    if not all(isinstance(column, (list, tuple)) for column in columns.values()):
        return None
    if len(columns) == 1:
        (only,) = columns.values()
        if only and all(isinstance(item, Mapping) for item in only):
            return list(only)
    if len({len(column) for column in columns.values()}) != 1:
        return None
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def names_of(fields: Iterable[object]) -> str:
    """Name the first twenty fields of a mapping."""
    return ", ".join(map(repr, list(fields)[:20])) or "none"


def kind_of(value: object) -> str:
    """Say what kind of value something is, for a message."""
    if value is None:
        return "null"
    if isinstance(value, (list, tuple)):
        inner = sorted({type(item).__name__ for item in value[:100]})
        return f"a list of {' and '.join(inner)}" if inner else "an empty list"
    return f"a value of type {type(value).__name__}"


def _is_row(value: Mapping[object, object]) -> bool:
    form = pick_form(value, prefer_chat=False)
    content = None if form is None else value[form[0]]
    if isinstance(content, (list, tuple)) and content:
        return all(map(is_message, content)) or all(type(item) is int for item in content)
    return isinstance(content, str)
