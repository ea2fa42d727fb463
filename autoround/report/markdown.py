"""Text for Markdown in which nothing is markup: model cards are read by web pages."""

from __future__ import annotations

import re
from collections.abc import Sequence

#: Letters that may begin markup, HTML or a link.
_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+\-.!|<>&~$:@/=^])")
#: Letters between which words of a name stand, and which begin nothing there.
_HARMLESS = re.compile(r"(?<=\w)\\([\-./:_+=])(?=\w)")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]")
#: Characters of a text that are shown.
_SHOWN = 500


def plain(text: object) -> str:
    """Return a text on one line, with all that would be markup escaped.

    Args:
        text: Anything; what is no text is written as Python does.
    """
    line = " ".join(_CONTROL.sub(" ", str(text)).split())[:_SHOWN]
    escaped = _SPECIAL.sub(r"\\\1", line)
    # Addresses become links by themselves, unless their colon is an entity.
    escaped = re.sub(r"(?i)(https?|ftp|mailto|www)(\\[:.])", r"\1&#58;", escaped)
    return _HARMLESS.sub(r"\1", escaped)


def code(text: object) -> str:
    """Return a text as code within a line.

    Args:
        text: Anything, as for plain.
    """
    line = " ".join(_CONTROL.sub(" ", str(text)).split())[:_SHOWN]
    # No escapes in code: a longer row of backticks than any in it ends it, and cells end at bars.
    longest = max(map(len, re.findall("`+", line)), default=0)
    fence = "`" * (longest + 1)
    space = " " if longest else ""
    return f"{fence}{space}{line}{space}{fence}".replace("|", "\\|") if line else ""


def code_block(text: str, language: str) -> str:
    """Return a text as a block of code.

    Args:
        text: Of one or more lines.
        language: What it is written in.
    """
    cleaned = "\n".join(_CONTROL.sub(" ", line) for line in text.split("\n"))
    longest = max(map(len, re.findall("`+", cleaned)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{cleaned}\n{fence}"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of cells that are Markdown.

    Args:
        headings: Of its columns.
        rows: Its cells.
    """
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
