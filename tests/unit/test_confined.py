"""Code in a process of its own: what it answers, what it raises, and what it may not take."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from autoround import confined
from autoround.confined import Confined, ConfinedError, LimitError, Message

linux = pytest.mark.skipif(sys.platform != "linux", reason="a child is forked on Linux alone")


def serve(call: Callable[[Any], Any]) -> Confined:
    """Confine a function of the value that is asked for."""
    return Confined(lambda: lambda message: Message(call(message.value), message.data))


@pytest.fixture
def one_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confined, "SECONDS", 1)
    # On a busy machine a second of a processor takes long.
    monkeypatch.setattr(confined, "PATIENCE", 1000)


def use_processor(value: object) -> None:
    while True:
        pass


def test_values_and_bytes_travel() -> None:
    value = {"a": [1, None, "\ud800", "é"], "b": 0.5}
    process = serve(lambda given: [given, given])
    for size in (0, 1, 10**7):
        data = os.urandom(size)
        assert process.ask(value, data) == ([value, value], data)


def test_an_error_comes_with_its_words_and_the_next_question_is_answered() -> None:
    process = serve(lambda value: 1 // value)
    with pytest.raises(ConfinedError, match="division") as caught:
        process.ask(0)
    assert caught.value.kind == "ZeroDivisionError"
    assert "test_confined.py" in str(caught.value.__cause__)
    assert process.ask(1).value == 1


def test_what_cannot_be_made_says_why() -> None:
    def make() -> confined.Handler:
        raise OSError("no such file")

    with pytest.raises(ConfinedError, match="no such file"):
        Confined(make)


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_elsewhere_it_runs_in_this_process(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    process = serve(lambda value: os.getpid() // value)
    assert process.ask(1).value == os.getpid()
    with pytest.raises(ConfinedError, match="division"):
        process.ask(0)


@linux
def test_it_runs_in_another_process() -> None:
    assert serve(lambda value: os.getpid()).ask(0).value != os.getpid()


@linux
def test_time_is_limited(one_second: None) -> None:
    process = serve(use_processor)
    with pytest.raises(LimitError, match="takes more than 1 s of a processor"):
        process.ask(0)
    with pytest.raises(LimitError, match="takes more than 1 s"):
        process.ask(0)


@linux
def test_each_request_has_the_whole_time(one_second: None) -> None:
    def half(value: object) -> None:
        end = time.process_time() + 0.6
        while time.process_time() < end:
            pass

    process = serve(half)
    for _ in range(4):
        process.ask(0)


@linux
def test_what_sleeps_is_not_waited_for_for_ever(
    one_second: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confined, "PATIENCE", 1)
    with pytest.raises(LimitError, match="gives no answer in 1 s"):
        serve(lambda value: time.sleep(60)).ask(0)


@linux
def test_memory_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confined, "MEMORY", 1 << 30)
    process = serve(lambda value: len("a" * value))
    assert process.ask(1 << 20).value == 1 << 20
    with pytest.raises(LimitError, match="takes more than 1 GiB of memory"):
        process.ask(2 << 30)


@linux
@pytest.mark.parametrize(
    ("number", "reason"),
    [(signal.SIGABRT, "memory, or crashes"), (signal.SIGTERM, "ended the process")],
)
def test_a_child_that_dies_is_an_error(number: int, reason: str) -> None:
    process = serve(lambda value: os.kill(os.getpid(), number))
    with pytest.raises(LimitError, match=reason):
        process.ask(0)


@linux
def test_what_ends_its_process_does_not_end_this_one() -> None:
    with pytest.raises(ConfinedError) as caught:
        serve(lambda value: sys.exit(3)).ask(0)
    assert caught.value.kind == "SystemExit"
    with pytest.raises(LimitError, match=r"ended the process it ran in \(status 3\)"):
        serve(lambda value: os._exit(3)).ask(0)


@linux
def test_a_child_is_gone_with_its_object() -> None:
    process = serve(lambda value: os.getpid())
    child = process.ask(0).value
    os.kill(child, 0)
    del process
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


@linux
def test_what_is_closed_says_so() -> None:
    process = serve(lambda value: value)
    process.close()
    process.close()
    with pytest.raises(LimitError, match="is closed"):
        process.ask(0)


@linux
def test_the_childs_hands_are_empty() -> None:
    """Files of the parent, its terminal and its other children are out of reach."""

    def look(value: object) -> list[str]:
        names = os.listdir("/proc/self/fd")
        return [os.readlink(f"/proc/self/fd/{n}") for n in names if os.path.exists(f"/dev/fd/{n}")]

    other, mine = serve(lambda value: value), serve(look)
    opened = mine.ask(0).value
    assert [path for path in opened if not path.startswith(("socket:", "/dev/null"))] == []
    assert len([path for path in opened if path.startswith("socket:")]) == 1
    assert other.ask(1).value == 1


@linux
def test_an_interrupted_question_is_not_answered_later(monkeypatch: pytest.MonkeyPatch) -> None:
    process = serve(lambda value: time.sleep(value) or value)

    def ring(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(KeyboardInterrupt):
            process.ask(30)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    with pytest.raises(LimitError, match="was interrupted"):
        process.ask(1)
