"""Types of the values that recipes hold, and the words for those that are legal."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, Field

from autoround.patterns import PatternError, compile_pattern

#: Bytes per unit of ``output.max_shard_size``.
SIZE_UNITS = {
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
}

_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?(" + "|".join(SIZE_UNITS) + ")")


@dataclass(frozen=True, slots=True)
class Legal:
    """The words that say which values a key accepts, and each entry if it is a list.

    entries: the section that each entry of the list is, None for a list of values.
    """

    text: str
    item: str = ""
    entries: type | None = None


def parse_size(size: int | str) -> int:
    """Return ``size`` in bytes.

    Args:
        size: bytes, or text of a number and a unit of ``SIZE_UNITS``, such as 5GB.

    Raises:
        ValueError: the text is not a size, or the size is under one byte.
    """
    if isinstance(size, str):
        match = _SIZE.fullmatch(size)
        if match is None:
            raise ValueError(f"not a number and one of the units {', '.join(SIZE_UNITS)}")
        count = int(float(match[1]) * SIZE_UNITS[match[2]])
    else:
        count = size
    if count < 1:
        raise ValueError("a shard holds at least one byte")
    return count


def check_size(size: int | str) -> int | str:
    """Pass on what is a size; ValueError otherwise."""
    parse_size(size)
    return size


def check_unicode(text: str) -> str:
    """Pass on what can be written as UTF-8; ValueError otherwise."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("half a character: no file could hold it") from None
    return text


def check_layer(pattern: str) -> str:
    """Pass on what may name layers; ValueError otherwise."""
    if not pattern.strip():
        raise ValueError("an empty name matches nothing")
    if pattern.startswith("re:"):
        try:
            compile_pattern(pattern[3:])
        except PatternError as error:
            raise ValueError(str(error)) from None
    return pattern


def as_tuple(value: object) -> object:
    """Let YAML's lists into fields that are tuples so that a recipe is hashable."""
    return tuple(value) if isinstance(value, list) else value


Rate: TypeAlias = Annotated[float, Field(gt=0, allow_inf_nan=False)] | Literal["auto"]
Count: TypeAlias = Annotated[int, Field(ge=1)]
Unicode: TypeAlias = Annotated[str, AfterValidator(check_unicode)]
Text: TypeAlias = Annotated[Unicode, Field(min_length=1)]
Layer: TypeAlias = Annotated[Unicode, AfterValidator(check_layer)]

COUNT = Legal("an integer of at least 1")
RATE = Legal("auto or a number above 0")
BOOL = Legal("true or false")
LAYER_WORDS = "a layer name, a glob such as '*.gate', or 're:' and a regular expression"
