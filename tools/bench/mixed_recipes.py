"""The recipes of the rows of ``mixed.py``, as overrides of the default one."""

from __future__ import annotations

import argparse
from typing import Any

from geometry import Geometry


def shared(args: argparse.Namespace) -> list[str]:
    """Return what all rows share."""
    return [
        f"scheme.group_size={args.group_size}",
        f"scheme.sym={'true' if args.sym else 'false'}",
        f"tuning.iters={args.iters}",
        f"tuning.batch_size={args.batch_size}",
        "tuning.compute_dtype=float32",
        f"calibration.nsamples={args.nsamples}",
        f"calibration.seqlen={args.seqlen}",
        "seed=0",
    ]


def uniform(word: str) -> list[str]:
    """Return the recipe of one scheme for all, such as W3g64 or W3gchannel."""
    bits, _, size = word.removeprefix("W").partition("g")
    return [f"scheme.bits={bits}", f"scheme.group_size={-1 if size == 'channel' else size}"]


def stored(bits: int, size: int) -> float:
    """Return the bits of a weight with its scale and zero point, as files hold them."""
    return bits + (16 + bits) / size


def ends(shape: Geometry, args: argparse.Namespace, budget: float) -> list[str]:
    """Give the first and last blocks 4 bits and the others 2, as many as the budget allows."""
    low, high = stored(2, args.group_size), stored(4, args.group_size)
    more = int((budget - low) / (high - low) * shape.blocks)
    first, last = more - more // 2, more // 2
    rules = []
    if first:
        rules.append(f"{{blocks: first {first}, bits: 4}}")
    if last:
        rules.append(f"{{blocks: last {last}, bits: 4}}")
    return ["scheme.bits=2", *([f"layers=[{', '.join(rules)}]"] if rules else [])]


def by_peer(config: dict[str, dict[str, Any]]) -> str:
    """Return the rules that give layers what the peer gave them."""
    found: dict[tuple[Any, ...], list[str]] = {}
    for name, own in config.items():
        bits = own["bits"]
        if bits is not None and bits <= 8:
            found.setdefault((bits, own["group_size"], own["sym"]), []).append(name)
    rules = [
        f"{{match: [{', '.join(names)}], bits: {bits}, group_size: {size}, "
        f"sym: {'true' if sym else 'false'}}}"
        for (bits, size, sym), names in found.items()
    ]
    return f"layers=[{', '.join(rules)}]"
