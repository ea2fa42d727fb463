from __future__ import annotations

from autoround.planning.tail import TAIL_RATE, TAIL_SECONDS, tail_seconds


def test_a_pass_ends_with_a_start_and_its_bytes() -> None:
    assert tail_seconds(0) == TAIL_SECONDS
    assert tail_seconds(10 * TAIL_RATE) == TAIL_SECONDS + 10
