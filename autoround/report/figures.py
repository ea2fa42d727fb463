"""Numbers of a run in words: the same in every page and table."""

from __future__ import annotations

from autoround.report.duration import format_duration

#: What stands for a number that nobody has.
MISSING = "–"


def size(count: float | None) -> str:
    """Write bytes in megabytes or gigabytes."""
    if count is None:
        return MISSING
    return f"{count / 1e9:.2f} GB" if count >= 10**9 else f"{count / 1e6:.1f} MB"


def span(seconds: float | None) -> str:
    """Write a span of time; short ones with a tenth of a second."""
    if seconds is None or seconds < 0:
        return MISSING
    return f"{seconds:.1f} s" if seconds < 10 else format_duration(seconds)


def decimal(value: float | None, places: int) -> str:
    """Write a number with so many places behind the point."""
    return MISSING if value is None else f"{value:.{places}f}"


def scientific(value: float | None) -> str:
    """Write a loss."""
    return MISSING if value is None else f"{value:.3e}"


def percent(share: float | None, places: int = 1) -> str:
    """Write a share of one."""
    return MISSING if share is None else f"{100 * share:.{places}f} %"


def change(before: float | None, after: float | None) -> str:
    """Write by how much a figure changed, in percent of what it was."""
    if before is None or after is None or before <= 0:
        return MISSING
    return f"{100 * (after / before - 1):+.1f} %"
