"""Time spans and counts in words."""

from __future__ import annotations

import math


def format_duration(seconds: float) -> str:
    """Write a time span the way people say it: 42 s, 3 min 20 s, 2 h 05 min.

    Args:
        seconds: not negative; infinite where nobody knows.
    """
    if math.isinf(seconds):
        return "unknown"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def count_of(count: int, noun: str) -> str:
    """Write a number of things: 1 block, 30 blocks.

    Args:
        count: of the things.
        noun: for one of them; more than one get an s.
    """
    return f"{count} {noun}{'' if count == 1 else 's'}"
