from __future__ import annotations

import math

import pytest

from autoround.report.duration import count_of, format_duration


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (0.4, "0 s"),
        (42, "42 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3599, "59 min 59 s"),
        (3599.7, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (100 * 3600, "100 h 00 min"),
        (math.inf, "unknown"),
    ],
)
def test_a_duration_as_people_say_it(seconds: float, words: str) -> None:
    assert format_duration(seconds) == words


def test_one_thing_has_no_s() -> None:
    assert [count_of(n, "block") for n in (0, 1, 2)] == ["0 blocks", "1 block", "2 blocks"]
