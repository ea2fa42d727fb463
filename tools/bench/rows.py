"""What a row of the bench is: who quantizes, by which settings, under which name.

A row is written ``WHO[:VARIANT][[key=value,...]][@LABEL]``::

    ours:w2                                        a recipe of ours, built in or a file
    ours:w2[tuning.iters=50,end_to_end.steps=100]@x   with overrides, shown as x
    peer:best    peer:ext    peer:light-ext        auto-round's recipes, and its extension
    rtn    opt-rtn    gptq    hqq    16bit
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from typing import Any

#: Who can quantize -> the file of the worker and the variant where none is named.
WHO = {
    "ours": ("worker_ours.py", "default"),
    "peer": ("worker_auto_round.py", "default"),
    "gptq": ("worker_gptq.py", ""),
    "hqq": ("worker_hqq.py", ""),
    "16bit": ("", ""),
}
#: Short names.
SHORT = {"rtn": "ours:rtn", "opt-rtn": "ours:opt-rtn"}
#: Rows that neither samples nor seeds change: measured for the first seed only.
FIXED = ("ours:rtn", "peer:rtn", "hqq", "16bit")
#: Variants of auto-round: its recipes, each also with its extension.
PEER = ("default", "best", "light", "rtn", "opt_rtn", "ext")

_ROW = re.compile(r"(?P<who>[\w-]+)(:(?P<variant>[^\[\]@]+))?(\[(?P<set>.*)\])?(@(?P<label>.+))?")


@dataclass(frozen=True)
class Row:
    """One method. overrides: ``key=value`` texts, laid over the settings that all rows share."""

    who: str
    variant: str
    overrides: tuple[str, ...] = ()
    label: str = ""

    @property
    def base(self) -> str:
        """The method without its overrides."""
        return f"{self.who}:{self.variant}" if self.variant else self.who

    @property
    def method(self) -> str:
        """All that says what is done; two rows of one method are the same."""
        return self.base + (f"[{','.join(self.overrides)}]" if self.overrides else "")

    @property
    def name(self) -> str:
        """What a table shows."""
        return self.label or self.method

    @property
    def fresh(self) -> bool:
        """Whether end-to-end tuning has samples to itself."""
        asked = [item for item in self.overrides if item.startswith("end_to_end.nsamples=")]
        return bool(asked) and not asked[-1].endswith("=0")

    @property
    def fixed(self) -> bool:
        """Whether every seed gives the same result."""
        return self.base in FIXED

    @property
    def options(self) -> list[str] | dict[str, Any]:
        """The overrides as the worker wants them: texts for our recipes, arguments for others."""
        if self.who == "ours":
            return list(self.overrides)
        pairs = (item.partition("=") for item in self.overrides)
        return {key: literal(value) for key, _, value in pairs}


def parse_rows(text: str) -> list[Row]:
    """Read rows separated by commas, those inside brackets aside.

    Raises:
        SystemExit: a row cannot be read or names nobody.
    """
    return [parse_row(item) for item in split(text) if item]


def parse_row(text: str) -> Row:
    """Read one row."""
    found = _ROW.fullmatch(SHORT.get(text, text))
    for short, long in SHORT.items():
        if found is not None and found["who"] == short and found["variant"] is None:
            found = _ROW.fullmatch(long + text[len(short) :])
    if found is None or found["who"] not in WHO:
        known = ", ".join([*WHO, *SHORT])
        raise SystemExit(
            f"row {text!r} is none; write WHO:VARIANT[key=value]@LABEL, WHO of {known}"
        )
    variant = found["variant"] or WHO[found["who"]][1]
    if found["who"] == "peer" and variant.removesuffix("-ext") not in PEER:
        raise SystemExit(f"row {text!r}: auto-round's variants are {', '.join(PEER)}, or NAME-ext")
    overrides = tuple(split(found["set"] or ""))
    for item in overrides:
        if "=" not in item:
            raise SystemExit(f"row {text!r}: {item!r} is no key=value")
    return Row(found["who"], variant, tuple(filter(None, overrides)), found["label"] or "")


def split(text: str) -> list[str]:
    """Split at the commas that stand outside all brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[{(") - (letter in "]})")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def literal(value: str) -> Any:
    """Read a Python or YAML scalar; anything else is a text."""
    words = {"true": True, "false": False, "null": None, "none": None}
    if value.lower() in words:
        return words[value.lower()]
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value


@dataclass(frozen=True)
class Grid:
    """Bits and symmetry that all rows of a table share."""

    bits: int
    asym: bool

    @property
    def word(self) -> str:
        """Short name, such as 2a or 4s."""
        return f"{self.bits}{'a' if self.asym else 's'}"


def parse_grids(text: str, *, asym: bool) -> list[Grid]:
    """Read ``2,3,4`` or ``2a,4s``: bits, each with a or s for its own symmetry."""
    grids = []
    for item in split(text):
        found = re.fullmatch(r"([2-8])([as]?)", item)
        if found is None:
            raise SystemExit(f"--bits {item!r} is no number from 2 to 8, with a or s behind it")
        grids.append(Grid(int(found[1]), found[2] == "a" if found[2] else asym))
    return grids
