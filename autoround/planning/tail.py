"""What a run takes around its blocks: figures that were measured once, on two cores."""

from __future__ import annotations

#: Seconds of writing what lies outside the blocks and of reading all back: so many for the start,
#: and bytes a second. Two cores of an AMD EPYC took 6 s for 112 MB in 30 blocks.
TAIL_SECONDS, TAIL_RATE = 3.0, 40e6
#: Bytes of records and activation streams that are put on the disk for good in a second.
JOURNAL_RATE = 300e6


def tail_seconds(disk_bytes: float) -> float:
    """Return the seconds of a pass behind its blocks.

    Args:
        disk_bytes: that the pass writes.
    """
    return TAIL_SECONDS + disk_bytes / TAIL_RATE
