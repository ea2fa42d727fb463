"""Text for a terminal: what comes from files neither moves its cursor nor ends a run.

Names of tensors, classes and files are anybody's text. Characters that a terminal obeys rather than
shows, and those that turn the reading direction of what stands around them, are written as escapes;
characters that the terminal's encoding lacks, as the nearest that it has.
"""

from __future__ import annotations

import codecs
import io
import re
import unicodedata
from typing import TextIO

#: What is written where an encoding lacks a character of our own messages.
NEAREST = {
    "→": "->",
    "×": "x",
    "–": "-",
    "—": "-",
    "…": "...",
    "≤": "<=",
    "≥": ">=",
    "≈": "~",
    "±": "+-",
    "·": "-",
    "²": "^2",
    "“": '"',
    "”": '"',
    "’": "'",
}
#: Name of the error handler of encodings.
_HANDLER = "autoround-nearest"
#: Categories of characters that are not shown: control, format, surrogate, private, separators of
#: lines and paragraphs.
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
#: Of these, those that join letters of a script and pictures.
_JOINERS = frozenset("\u200c\u200d")


def printable(text: str, *, keep: str = "") -> str:
    """Return a text whose every character is shown by a terminal.

    Args:
        text: of any origin.
        keep: characters to leave as they are, such as line ends.
    """
    if text.isprintable():
        return text
    return "".join(c if c in keep or _is_seen(c) else _escape(c) for c in text)


def _is_seen(character: str) -> bool:
    return character in _JOINERS or unicodedata.category(character) not in _UNSEEN


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")


def wrap_words(text: str, width: int, *, indent: int = 2) -> str:
    """Break a line between its words, where a terminal would break it within one.

    Args:
        text: one line.
        width: columns of the terminal; a word that is longer is left to it.
        indent: columns before the lines that follow.
    """
    # rich counts columns: letters of some scripts take two.
    from rich.cells import cell_len

    indent = indent if indent <= width // 3 else 2
    lines, line = [], ""
    for piece in re.findall(r"\s*\S+", text):
        if line.strip() and cell_len(line + piece) > width:
            lines.append(line)
            line = " " * indent + piece.lstrip()
        else:
            line += piece
    return "\n".join([*lines, line])


def write_nearest(*streams: TextIO) -> None:
    """Let streams write the nearest character where their encoding lacks one.

    Args:
        streams: of the process; others are left as they are.
    """
    codecs.register_error(_HANDLER, _nearest)
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_HANDLER)


def _nearest(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(NEAREST.get(c, "?") for c in lacking), error.end
