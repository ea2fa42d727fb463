"""Events of a run: a sink is told of all of them, and each one is shown."""

from __future__ import annotations

import dataclasses
from typing import Any, get_args

import pytest

from autoround import events
from autoround.events import Event, Finished, StageStarted, Warned, ignore
from autoround.report.progress import Progress

KINDS = [
    value
    for value in vars(events).values()
    if dataclasses.is_dataclass(value) and value.__module__ == events.__name__
]


def test_every_kind_of_event_is_one_that_sinks_are_told_of() -> None:
    assert set(KINDS) == set(get_args(Event))


def test_events_are_values() -> None:
    one = StageStarted("tune", "2 blocks")
    assert one == StageStarted("tune", "2 blocks") != StageStarted("tune")
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.stage = "write"  # type: ignore[misc]


def test_silence_takes_any_event() -> None:
    made: list[Any] = [Warned("x"), Finished("out", 1.0, 2), StageStarted("tune")]
    assert [ignore(event) for event in made] == [None] * 3  # type: ignore[func-returns-value]


def test_progress_has_words_for_those_without_figures(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    progress = Progress(Console())
    for event in (
        Warned("mind this"),
        Finished("out", 1.0, 2_000_000),
        StageStarted("write", "out"),
    ):
        progress(event)
    out = capsys.readouterr().out
    assert "warning: mind this" in out
    assert "done: out, 2.0 MB" in out
    assert "write: out" in out
