"""What a model's own code does with its layers, found on a small copy of its class."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from torch import nn

from autoround.errors import one_line
from autoround.model.probe.block_check import BlockCheck, check_blocks, other_lists
from autoround.model.probe.first_blocks import take_first_blocks
from autoround.model.probe.observe import Observed, observe
from autoround.model.probe.small_copy import (
    Signature,
    SmallCopy,
    make_small_copy,
    signature,
)


@dataclass(frozen=True)
class CodeTraits:
    """What is known of a model's code.

    choosing: modules that a choice of experts or tokens is computed from. read: linear layers
    whose weight is read by other code than their own. why_not_by_block: why its blocks cannot be
    run one after the other, empty where they can. unchecked: why nothing is known, or what is not;
    empty where all is. known: whether a small copy was run at all. streams: how many streams of
    the hidden width a token has between blocks. lists: paths of other lists of modules with linear
    layers that text runs through as well. on_text: whether text runs through any block at all.
    """

    choosing: frozenset[str] = frozenset()
    read: frozenset[str] = frozenset()
    why_not_by_block: str = ""
    unchecked: str = ""
    known: bool = True
    streams: int = 1
    lists: frozenset[str] = frozenset()
    on_text: bool = True


@dataclass(frozen=True)
class _Findings:
    """What a small copy showed, by the kind of block; names are relative to the block."""

    choosing: Mapping[Signature, frozenset[str]]
    read: Mapping[Signature, frozenset[str]]
    read_outside: frozenset[str]
    uncovered: frozenset[Signature]
    check: BlockCheck
    lists: frozenset[str]


def code_traits(model: nn.Module, blocks: Sequence[str]) -> CodeTraits:
    """Find out what a model's code does with its layers.

    Args:
        model: of transformers, possibly on meta; it is neither changed nor run.
        blocks: paths of its decoder blocks.
    """
    kinds = {path: signature(model.get_submodule(path)) for path in blocks}
    config: Any = getattr(model, "config", None)
    try:
        text = json.dumps(config.to_dict(), sort_keys=True, default=str)
    except (AttributeError, TypeError, ValueError) as error:
        return CodeTraits(unchecked=one_line(error), known=False)
    counts = tuple(Counter(kinds.values()).items())
    findings = _probe(_Subject(type(model), config, text), counts)
    if isinstance(findings, str):
        return CodeTraits(unchecked=findings, known=False)
    missing = sum(kind in findings.uncovered for kind in kinds.values())
    return CodeTraits(
        _in_model(kinds, findings.choosing),
        _in_model(kinds, findings.read) | findings.read_outside,
        findings.check.why_not,
        f"{missing} blocks are of a kind that the copy does not have" if missing else "",
        streams=findings.check.streams,
        lists=findings.lists,
        on_text=findings.check.on_text,
    )


class _Subject:
    """A model class with a config; equal to another one with the same values."""

    def __init__(self, model: type[nn.Module], config: Any, text: str) -> None:
        self.model, self.config, self._text = model, config, text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Subject) and (self.model, self._text) == (
            other.model,
            other._text,
        )

    def __hash__(self) -> int:
        return hash(self._text)


@lru_cache(maxsize=4)
def _probe(subject: _Subject, kinds: tuple[tuple[Signature, int], ...]) -> _Findings | str:
    """Run a small copy; returns what it showed, or why there is none.

    A plan is made more than once in a run, and what it asks here depends on the config alone.
    """
    made = make_small_copy(subject.model, subject.config, Counter(dict(kinds)))
    if isinstance(made, str):
        reason, made = made, take_first_blocks(subject.model, subject.config, Counter(dict(kinds)))
        if isinstance(made, str):
            return reason
    try:
        observed = observe(made)
    except Exception as error:  # somebody else's code fails in many unrelated ways
        return one_line(error)
    return _Findings(
        _by_kind(made, observed.choosing),
        _by_kind(made, observed.read),
        _outside(made, observed),
        made.uncovered,
        check_blocks(made, observed),
        other_lists(made.blocks, observed),
    )


def _by_kind(copy: SmallCopy, names: frozenset[str]) -> dict[Signature, frozenset[str]]:
    """Return names inside blocks, relative to them, by the kind of block."""
    inside: dict[Signature, frozenset[str]] = {}
    for path, kind in zip(copy.blocks, copy.kinds, strict=True):
        relative = {n.removeprefix(f"{path}.") for n in names if n.startswith(f"{path}.")}
        inside[kind] = inside.get(kind, frozenset()) | relative
    return inside


def _outside(copy: SmallCopy, observed: Observed) -> frozenset[str]:
    blocks = tuple(f"{path}." for path in copy.blocks)
    return frozenset(name for name in observed.read if not name.startswith(blocks))


def _in_model(
    kinds: Mapping[str, Signature], inside: Mapping[Signature, frozenset[str]]
) -> frozenset[str]:
    """Return names in a model by what was found inside each kind of block."""
    return frozenset(
        f"{path}.{name}" for path, kind in kinds.items() for name in inside.get(kind, ())
    )
