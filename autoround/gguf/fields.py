"""One entry of a GGUF file's header."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

Kind = Literal["u32", "f32", "bool", "text", "texts", "i32s", "f32s", "bools"]


class Field(NamedTuple):
    """A key, its value, and the type that llama.cpp expects it to have."""

    key: str
    value: Any
    kind: Kind
