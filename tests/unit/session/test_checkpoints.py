"""Streams are saved when saving them takes a twentieth of a run at most."""

from __future__ import annotations

from autoround.session.checkpoints import RATIO, AfterWaiting, EveryBlock, RareCheckpoints

SUMS = {"full": 1}


class Clock:
    """Stands still until it is told to go."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_first_is_due_and_tells_the_cost() -> None:
    clock = Clock()
    policy = RareCheckpoints(clock)
    saved: list[float] = []

    def save() -> dict[str, int]:
        saved.append(clock.now)
        clock.now += 3.0
        return SUMS

    assert policy.save(save) == SUMS
    # It ended at 103 and took 3: the next is due 60 later, and not a moment before.
    clock.now = 103.0 + 3.0 * RATIO - 0.5
    assert policy.save(save) == {}
    assert saved == [100.0]
    clock.now += 0.5
    assert policy.save(save) == SUMS
    assert saved == [100.0, 163.0]


def test_the_last_cost_counts() -> None:
    clock = Clock()
    policy = RareCheckpoints(clock)
    costs = iter([10.0, 1.0, 1.0])

    def save() -> dict[str, int]:
        clock.now += next(costs)
        return SUMS

    policy.save(save)
    clock.now += 10.0 * RATIO
    assert policy.save(save) == SUMS
    clock.now += 1.0 * RATIO
    assert policy.save(save) == SUMS


def test_every_block_is_every_block() -> None:
    policy = EveryBlock()
    assert [policy.save(lambda: SUMS) for _ in range(3)] == [SUMS] * 3


def test_what_is_due_is_saved_once_the_wait_is_over() -> None:
    clock = Clock()
    done: list[str] = []

    def save() -> dict[str, int]:
        done.append("save")
        clock.now += 1.0
        return SUMS

    policy = AfterWaiting(RareCheckpoints(clock), lambda: done.append("wait"))
    assert policy.save(save) == SUMS
    assert done == ["wait", "save"]
    # Not due: nothing is waited for.
    assert policy.save(save) == {}
    assert done == ["wait", "save"]
