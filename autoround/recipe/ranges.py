"""Which decoder blocks the words of a rule mean, such as ``first 2`` or ``0-3``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

ALL = "all"
#: The words for what may be written.
LEGAL_BLOCKS = (
    "all, a number, a range such as 0-3, 'first 2', 'last 2', 'first 1/8' (a share), "
    "'every 3', or a list of these"
)

_FORM = re.compile(
    r"(?P<end>first|last) (?P<count>[0-9]{1,6})(?:/(?P<of>[0-9]{1,6}))?"
    r"|every (?P<every>[0-9]{1,6})"
    r"|(?P<low>[0-9]{1,6})(?:-(?P<high>[0-9]{1,6}))?"
)


class Blocks(NamedTuple):
    """One of the forms: a range with both ends, a share of an end, or every nth."""

    low: int = 0
    high: int = 0
    end: str = ""
    of: int = 0
    every: int = 0


def parse_blocks(text: str) -> Blocks:
    """Return what one form means.

    Raises:
        ValueError: it is none of the forms, or means no block whatever the model.
    """
    found = _FORM.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is none of these")
    if found["every"]:
        if int(found["every"]) < 1:
            raise ValueError(f"{text!r} means no block")
        return Blocks(every=int(found["every"]))
    if found["end"]:
        count, of = int(found["count"]), int(found["of"] or 0)
        if count < 1 or (found["of"] is not None and not count <= of):
            raise ValueError(f"{text!r} means no block, or more than all")
        return Blocks(count, count, found["end"], of)
    low = int(found["low"])
    high = low if found["high"] is None else int(found["high"])
    if high < low:
        raise ValueError(f"{text!r} ends before it begins")
    return Blocks(low, high)


def chosen(forms: Iterable[int | str], count: int) -> frozenset[int]:
    """Return the numbers of the blocks that are meant, of a model that has ``count``.

    A share is rounded down, but is never less than one block.
    """
    found: set[int] = set()
    for form in forms:
        if form == ALL:
            return frozenset(range(count))
        blocks = parse_blocks(str(form))
        if blocks.every:
            found |= set(range(blocks.every - 1, count, blocks.every))
        elif blocks.end:
            some = max(1, count * blocks.low // blocks.of) if blocks.of else blocks.low
            first = blocks.end == "first"
            found |= set(range(some) if first else range(max(0, count - some), count))
        else:
            found |= set(range(blocks.low, blocks.high + 1))
    return frozenset(found & set(range(count)))


def check_blocks(value: int | str | tuple[int | str, ...]) -> int | str | tuple[int | str, ...]:
    """Pass on what names blocks; ValueError otherwise."""
    for form in value if isinstance(value, tuple) else (value,):
        if form != ALL:
            parse_blocks(str(form))
    return value
