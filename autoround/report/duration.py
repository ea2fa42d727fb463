"""Time spans in words."""

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
