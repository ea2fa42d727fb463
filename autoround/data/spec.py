"""The grammar in which a user names calibration datasets.

``name[:key[=value]]...`` for one dataset, commas between several. A name or a value in double
quotes keeps commas, colons and spaces; ``\\"`` inside quotes stands for a quote. A backslash is
doubled only where a quote follows it, so that quoted Windows paths need no doubling inside.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from autoround.errors import DataError

#: Option keys of the grammar, in the order in which a spec is written out.
KEYS = ("num", "split", "concat", "apply_chat_template", "system_prompt", "key")

_SPLIT_NAME = re.compile(r"[\w.\-]+")
_CHUNK = re.compile(r'(.*?)(\\*)"', re.DOTALL)
_BARE = re.compile(r'[^,:="\s\\]+')


@dataclass(frozen=True, slots=True)
class DatasetSpec:
    """One dataset as the user named it; None and () stand for "not said"."""

    name: str
    num: int | None = None
    splits: tuple[str, ...] = ()
    concat: bool | None = None
    apply_chat_template: bool = False
    system_prompt: str | None = None
    text_key: str | None = None

    def __str__(self) -> str:
        """Write the spec in the grammar; parsing it again gives an equal spec."""
        parts = [_quoted(self.name)]
        if self.num is not None:
            parts.append(f"num={self.num}")
        if self.splits:
            parts.append("split=" + "+".join(self.splits))
        if self.concat is not None:
            parts.append(f"concat={str(self.concat).lower()}")
        if self.apply_chat_template:
            parts.append("apply_chat_template")
        if self.system_prompt is not None:
            parts.append("system_prompt=" + _quoted(self.system_prompt, always=True))
        if self.text_key is not None:
            parts.append("key=" + _quoted(self.text_key))
        return ":".join(parts)


def parse_datasets(text: str | Sequence[str]) -> tuple[DatasetSpec, ...]:
    """Parse dataset names with their options into specs, in the order given.

    ``text`` is one string of the grammar, or several, each of which may itself hold commas.

    Raises: DataError naming the string, the column (counted from 1) and the legal values.
    """
    texts = [text] if isinstance(text, str) else list(text)
    if not texts:
        raise DataError("no dataset is named: name a file, a hub dataset, or 'embedded'")
    specs: list[DatasetSpec] = []
    for index, entry in enumerate(texts):
        if not isinstance(entry, str):
            raise DataError(
                f"dataset {index + 1} of the list is of type {type(entry).__name__}, not a string: "
                "write name[:key=value]..."
            )
        specs.extend(_Parser(entry).datasets())
    return tuple(specs)


def _quoted(value: str, *, always: bool = False) -> str:
    if not always and _BARE.fullmatch(value):
        return value
    # Backslashes before a quote, and before the closing one, are doubled: the rule of reading.
    doubled = re.sub(r'(\\*)("|\Z)', lambda m: m[1] * 2 + ('\\"' if m[2] else ""), value)
    return f'"{doubled}"'


class _Parser:
    """Recursive descent over one string; ``at`` is the index of the next character."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def datasets(self) -> list[DatasetSpec]:
        specs = [self.dataset()]
        while self.take(","):
            specs.append(self.dataset())
        return specs

    def dataset(self) -> DatasetSpec:
        start = self.at
        name = self.word(",:")
        if not name:
            raise self.error(start, "a dataset name is missing here")
        options: dict[str, str | None] = {}
        columns: dict[str, int] = {}
        while self.take(":"):
            column = self.at
            key = self.word(",:=")
            self.check_key(key, column, seen=columns)
            columns[key] = column
            options[key] = self.word(",:") if self.take("=") else None
        return self.build(name, options, columns=columns)

    def check_key(self, key: str, column: int, *, seen: dict[str, int]) -> None:
        if key in seen:
            raise self.error(column, f"option {key!r} is given twice for one dataset")
        if key in KEYS:
            return
        close = difflib.get_close_matches(key, KEYS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise self.error(
            column,
            f"unknown option {key!r}, legal options are {', '.join(KEYS)}{hint} "
            "(a name or value that contains ':' or ',' must be in double quotes)",
        )

    def build(
        self, name: str, options: dict[str, str | None], *, columns: dict[str, int]
    ) -> DatasetSpec:
        for key in ("num", "split", "system_prompt", "key"):
            if key in options and not options[key]:
                raise self.error(columns[key], f"option {key!r} needs a value: {key}=...")
        num, split = options.get("num"), options.get("split")
        return DatasetSpec(
            name=name,
            num=None if num is None else self.count(num, columns["num"]),
            splits=() if split is None else self.split_names(split, columns["split"]),
            concat=self.flag("concat", options["concat"], column=columns["concat"])
            if "concat" in options
            else None,
            apply_chat_template="apply_chat_template" in options
            and self.flag(
                "apply_chat_template",
                options["apply_chat_template"],
                column=columns["apply_chat_template"],
            ),
            system_prompt=options.get("system_prompt"),
            text_key=options.get("key"),
        )

    def count(self, value: str, column: int) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", value) or int(value) < 1:
            raise self.error(column, f"num={value} is not a whole number from 1 to 999999999")
        return int(value)

    def split_names(self, value: str, column: int) -> tuple[str, ...]:
        names = tuple(part.strip() for part in value.split("+"))
        for name in names:
            if not _SPLIT_NAME.fullmatch(name):
                raise self.error(
                    column, f"{name!r} is not a split name: write split=train or split=train+test"
                )
        return names

    def flag(self, key: str, value: str | None, *, column: int) -> bool:
        if value is None or value.lower() == "true":
            return True
        if value.lower() == "false":
            return False
        raise self.error(column, f"{key}={value}: legal values are true and false")

    def take(self, char: str) -> bool:
        if self.at < len(self.text) and self.text[self.at] == char:
            self.at += 1
            return True
        return False

    def word(self, stops: str) -> str:
        """Read a bare or quoted word up to the next of ``stops``; spaces around it fall away."""
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1
        if self.take('"'):
            value = self.quoted()
            while self.at < len(self.text) and self.text[self.at].isspace():
                self.at += 1
            if self.at < len(self.text) and self.text[self.at] not in stops:
                raise self.error(
                    self.at, f"after a closing quote, one of {' '.join(stops)} or the end must come"
                )
            return value
        start = self.at
        while self.at < len(self.text) and self.text[self.at] not in stops:
            if self.text[self.at] == '"':
                raise self.error(
                    self.at, 'a quote inside a bare word: quote all of it and write \\" inside'
                )
            self.at += 1
        return self.text[start : self.at].strip()

    def quoted(self) -> str:
        """Read up to the closing quote; only backslashes just before a quote are special."""
        opened = self.at
        out: list[str] = []
        while match := _CHUNK.match(self.text, self.at):
            self.at = match.end()
            plain, backslashes = match.groups()
            out.append(plain + "\\" * (len(backslashes) // 2))
            if len(backslashes) % 2 == 0:
                return "".join(out)
            out.append('"')
        raise self.error(opened - 1, "this quote is never closed")

    def error(self, at: int, problem: str) -> DataError:
        return DataError(f"dataset {self.text!r}, column {at + 1}: {problem}")
