"""The table of serving engines: what each of them does with the formats that are written here.

It is data, ``engines.yaml`` beside this module, dated and with the evidence of every line. The
models below are its schema: a key that they do not know, or a value that is not legal, is an error.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Literal, TypeAlias

import yaml
from pydantic import BaseModel, ConfigDict, Field

from autoround.errors import UsageError

#: The table that comes with the package.
FILE = Path(__file__).with_name("engines.yaml")
Effect: TypeAlias = Literal["refuses", "slow", "reads otherwise"]
Evidence: TypeAlias = Literal["run", "loaded", "source"]


class _Strict(BaseModel):
    """An entry of the table; keys that it does not have are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Conditions(_Strict):
    """What one layer must be for a rule to speak of it; what is left out is met by all.

    bits, group_sizes, kinds (block types of GGUF): any of a list. other_group_sizes: none of it.
    sym, experts (a matrix of experts), head (the output head). crosses_words: values lie across
    two 32-bit words. short_groups: the last group of a row is shorter. inputs_not_multiple_of,
    outputs_not_multiple_of: outputs of merged layers are counted together.

    Of experts: stacked, whether the model's class holds them in one tensor; renamed, under other
    names than the files; narrow, of a width that Marlin's kernel for experts does not take.
    of_most: the scheme is that of most layers. A rule about others is about layers that are kept in
    16 bit, too; no other rule is. merged_differ: engines merge the layer with others, which have
    another scheme. cut_words: they merge it, and its outputs' zero points end inside a word.

    Of the whole model: several_schemes; experts_differ in scheme, kept ones counted;
    experts_symmetric, all that are quantized; uneven, layers are kept, others in every block;
    desc_act, inputs are reordered.
    """

    bits: tuple[int, ...] = ()
    sym: bool | None = None
    group_sizes: tuple[int, ...] = ()
    other_group_sizes: tuple[int, ...] = ()
    kinds: tuple[str, ...] = ()
    crosses_words: bool | None = None
    experts: bool | None = None
    stacked: bool | None = None
    renamed: bool | None = None
    narrow: bool | None = None
    head: bool | None = None
    short_groups: bool | None = None
    of_most: bool | None = None
    merged_differ: bool | None = None
    cut_words: bool | None = None
    several_schemes: bool | None = None
    experts_differ: bool | None = None
    experts_symmetric: bool | None = None
    uneven: bool | None = None
    desc_act: bool | None = None
    inputs_not_multiple_of: int | None = None
    outputs_not_multiple_of: int | None = None


class Rule(_Strict):
    """What an engine does with some layers of a format.

    packings: names or globs. on: the machines that it is about; empty for all. before: the version
    that it is no longer about, where not the one of the table is meant but earlier ones. says: what
    happens. instead: what to choose. evidence: how that is known.
    """

    id: str
    packings: tuple[str, ...] = Field(min_length=1)
    when: Conditions = Conditions()
    effect: Effect
    on: str = ""
    before: str = ""
    says: str = Field(min_length=1)
    instead: str = Field(min_length=1)
    evidence: Evidence


class ServedPackings(_Strict):
    """Packings that an engine looks into, and the command that serves a folder of one.

    command: empty where a rule refuses all of it. needs: packages that it takes beside the engine.
    seen_with: what was run, where that is less than all that is taken.
    """

    packings: tuple[str, ...] = Field(min_length=1)
    command: str
    needs: str = ""
    evidence: Evidence
    seen_with: str = ""

    @property
    def known_by(self) -> str:
        """The evidence, with what it was seen with."""
        return f"{self.evidence} ({self.seen_with})" if self.seen_with else self.evidence


class Engine(_Strict):
    """A serving engine as it was on a day.

    seen: what was run or read. unread: what to choose in place of a format that it does not read.
    notes: what else is to be known of serving with it, for the page.
    """

    title: str
    version: str
    looked_at: datetime.date
    seen: str
    unread: str
    notes: tuple[str, ...] = ()
    reads: tuple[ServedPackings, ...]
    rules: tuple[Rule, ...]

    def serving(self, packing: str) -> ServedPackings | None:
        """Return how the engine takes a packing; None where it does not read it."""
        return next(
            (entry for entry in self.reads if matches_packing(packing, entry.packings)), None
        )


class EngineTable(_Strict):
    """All engines by the names that ``--for`` takes."""

    engines: dict[str, Engine]


def matches_packing(packing: str, patterns: Sequence[str]) -> bool:
    """Tell whether a packing is one of some names or globs."""
    return any(fnmatchcase(packing, pattern) for pattern in patterns)


def read_table(text: str) -> dict[str, Engine]:
    """Return the engines of a table.

    Args:
        text: YAML.

    Raises:
        ValueError: a key or a value is not of the schema.
    """
    return EngineTable.model_validate(yaml.safe_load(text)).engines


@lru_cache(maxsize=1)
def engine_table() -> dict[str, Engine]:
    """Return the engines of the table that comes with the package, by name."""
    return read_table(FILE.read_text(encoding="utf-8"))


def check_engines(names: Sequence[str]) -> tuple[str, ...]:
    """Return names of engines without repetitions.

    Args:
        names: as ``--for`` takes them; each may be several with commas between.

    Raises:
        UsageError: one is not in the table.
    """
    words = [word.strip() for name in names for word in name.split(",")]
    legal = engine_table()
    for word in words:
        if word not in legal:
            raise UsageError(f"--for {word}: nothing is known of it; legal: {', '.join(legal)}")
    return tuple(dict.fromkeys(words))
