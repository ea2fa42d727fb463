# Tests: autoround/cli/_signals.py
"""A command that is asked to end cleans up, says how to go on, and ends with the signal's code."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from autoround import gated
from autoround.cli._signals import ending_signals
from autoround.events import Event

from .conftest import Command
from .test_quantize import small

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are of Unix")
SIGNALS = [signal.SIGTERM, signal.SIGHUP]


@pytest.fixture
def by_default() -> Iterator[None]:
    """Whatever the tests were started by (nohup ignores a hangup), signals do what they do."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("by_default")
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_interrupts_and_the_next_would_end_the_process(number: signal.Signals) -> None:
    with ending_signals() as came:
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
        assert came == [number]
        assert signal.getsignal(number) is signal.SIG_DFL
    assert signal.getsignal(number) is signal.SIG_DFL


@pytest.mark.parametrize("number", SIGNALS)
def test_what_is_ignored_stays_ignored(number: signal.Signals) -> None:
    signal.signal(number, signal.SIG_IGN)
    try:
        with ending_signals() as came:
            os.kill(os.getpid(), number)
        assert came == []
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, signal.SIG_DFL)


def test_another_thread_runs_commands_without_them() -> None:
    seen: list[object] = []

    def work() -> None:
        with ending_signals():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.SIG_DFL]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_run_that_is_asked_to_end_can_be_resumed(
    number: signal.Signals,
    autoround: Command,
    model: Path,
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = gated.run

    def run(request: object, output: object, *, sink: Callable[[Event], None]) -> object:
        def ending(event: Event) -> None:
            sink(event)
            if type(event).__name__ == "BlockDone":
                os.kill(os.getpid(), number)

        return original(request, output, sink=ending)  # type: ignore[arg-type]

    monkeypatch.setattr(gated, "run", run)
    done = autoround("quantize", model, *small(text), "-o", tmp_path / "out")
    assert done.code == 128 + number
    assert done.err.splitlines()[-1].startswith("interrupted: 1 finished block is kept; go on with")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.journal", "text.txt"]
