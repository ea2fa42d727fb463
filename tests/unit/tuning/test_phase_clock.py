from __future__ import annotations

import itertools

import pytest

from autoround.tuning.phase_clock import PhaseClock


def test_seconds_of_a_phase_add_up_behind_the_queue_of_the_device() -> None:
    ticks, waits = itertools.count(), []
    clock = PhaseClock(lambda: waits.append(1), clock=lambda: float(next(ticks)))
    for phase in ("read", "tune", "read"):
        with clock.measure(phase):
            pass
    assert clock.seconds == {"read": 2.0, "tune": 1.0}
    assert len(waits) == 6


def test_a_phase_that_fails_is_not_counted() -> None:
    clock = PhaseClock()
    with pytest.raises(ValueError, match="no"), clock.measure("tune"):
        raise ValueError("no")
    assert clock.seconds == {}
