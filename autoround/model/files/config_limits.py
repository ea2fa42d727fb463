"""Sizes in a config that no model has: a class built from them would take all memory and time."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from autoround.errors import ModelError


class Limit(NamedTuple):
    """What a number in a config may be at most.

    names: of its keys. largest: the number. what: names it in messages.
    """

    names: re.Pattern[str]
    largest: int
    what: str


#: Modules are made for each of these, and numbers for each position and label. The largest models
#: of 2026 have 128 layers, 1,024 experts, ten million positions and a quarter of a million tokens.
LIMITS = (
    Limit(re.compile(r"layers|blocks$|depth|stacks|stages"), 10_000, "layers"),
    Limit(re.compile(r"experts"), 100_000, "experts"),
    Limit(re.compile(r"num_labels|n_labels|num_classes"), 100_000, "labels"),
    Limit(re.compile(r"heads$|_groups$|codebooks$"), 100_000, "heads"),
    Limit(re.compile(r"position|n_ctx|context|seq_len|window"), 2**30, "positions"),
    Limit(re.compile(r"vocab"), 2**28, "tokens"),
    Limit(re.compile(r""), 2**53, "anything"),
)
#: Entries of a list or object, and how deep they may lie in each other.
MOST_ENTRIES, DEEPEST = 1_000_000, 64


def check_limits(config: dict[str, Any], where: str) -> None:
    """Refuse a config whose sizes are beyond those of any model.

    Args:
        config: as read from a file.
        where: the file, for messages.

    Raises:
        ModelError: with the key, its number and what would be possible.
    """
    for name, value, depth in _entries(config):
        if depth > DEEPEST:
            raise ModelError(f"{where}: {name[:80]} lies {depth} objects deep: not a model config")
        if isinstance(value, dict | list) and len(value) > MOST_ENTRIES:
            raise ModelError(f"{where}: {name[:80]} has {len(value)} entries: not a model config")
        if isinstance(value, bool) or not isinstance(value, int):
            continue
        key = name.rpartition(".")[2]
        limit = next(limit for limit in LIMITS if limit.names.search(key))
        # Token ids of -1 are other people's business.
        if value > limit.largest:
            shown = str(value) if value < 10**18 else "a number of many digits"
            raise ModelError(
                f"{where}: {name[:80]} is {shown}; at most {limit.largest} {limit.what} are built"
            )


def _entries(config: dict[str, Any]) -> Iterator[tuple[str, Any, int]]:
    """Yield everything in a config with its name, and how deep it lies."""
    waiting: list[tuple[str, Any, int]] = [("", config, 0)]
    while waiting:
        path, item, level = waiting.pop()
        yield path, item, level
        if level > DEEPEST:
            continue
        if isinstance(item, dict):
            waiting += [(f"{path}.{k}" if path else str(k), v, level + 1) for k, v in item.items()]
        elif isinstance(item, list) and not all(isinstance(v, int | float | str) for v in item):
            waiting += [(path, v, level + 1) for v in item]
