"""Tasks are done in order, errors come back, and the thread has ended when the context has."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from autoround.session.task_queue import Behind, Immediately, TaskQueue


def writer_threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "autoround-writer"]


@pytest.mark.parametrize("make", [Immediately, Behind])
def test_tasks_are_done_in_their_order(make: Callable[[], TaskQueue]) -> None:
    seen: list[int] = []

    def use(queue: TaskQueue) -> None:
        for number in range(20):
            queue.put(lambda number=number: seen.append(number))
        queue.drain()
        assert seen == list(range(20))

    queue = make()
    if isinstance(queue, Behind):
        with queue:
            use(queue)
    else:
        use(queue)
    assert writer_threads() == []


def test_no_more_tasks_wait_than_may() -> None:
    begun, may_end = threading.Event(), threading.Event()
    put: list[int] = []

    def slow() -> None:
        begun.set()
        assert may_end.wait(30)

    def hand_over(queue: Behind) -> None:
        for number in range(3):
            queue.put(lambda: None)
            put.append(number)

    with Behind(waiting=2) as queue:
        queue.put(slow)
        assert begun.wait(30)
        helper = threading.Thread(target=hand_over, args=(queue,))
        helper.start()
        helper.join(0.3)
        assert (put, helper.is_alive()) == ([0, 1], True)
        may_end.set()
        helper.join(30)
    assert put == [0, 1, 2]


def fail() -> None:
    raise OSError(28, "No space left on device")


def test_an_error_is_raised_where_the_next_task_is_handed_over() -> None:
    done: list[str] = []

    def use() -> None:
        with Behind() as queue:
            queue.put(fail, lasting=True)
            for _ in range(20):
                queue.put(lambda: done.append("later"), lasting=True)
            done.append("not reached")

    with pytest.raises(OSError, match="No space left"):
        use()
    assert done == []
    assert writer_threads() == []


@pytest.mark.parametrize("drained", [False, True])
def test_an_error_is_raised_at_the_end_at_the_latest(drained: bool) -> None:
    def use() -> None:
        with Behind() as queue:
            queue.put(fail)
            if drained:
                queue.drain()

    with pytest.raises(OSError, match="No space left"):
        use()
    assert writer_threads() == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_run_that_ends_early_does_what_lasts_and_nothing_else(
    error: type[BaseException],
) -> None:
    begun, may_end = threading.Event(), threading.Event()
    done: list[str] = []

    def slow() -> None:
        begun.set()
        assert may_end.wait(30)

    def use() -> None:
        with Behind() as queue:
            queue.put(slow)
            assert begun.wait(30)
            queue.put(lambda: done.append("record"), lasting=True)
            queue.put(lambda: done.append("files"))
            queue.put(lambda: done.append("another record"), lasting=True)
            # The task in hand ends once the context has begun to.
            threading.Timer(0.5, may_end.set).start()
            raise error

    with pytest.raises(error):
        use()
    assert done == ["record", "another record"]
    assert writer_threads() == []


def test_the_error_of_the_run_is_the_one_that_goes_on() -> None:
    def use() -> None:
        with Behind() as queue:
            queue.put(fail, lasting=True)
            raise ValueError("tuning")

    with pytest.raises(ValueError, match="tuning"):
        use()
    assert writer_threads() == []
