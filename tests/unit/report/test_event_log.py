"""The log of events: a line of JSON each, there when it happens."""

from __future__ import annotations

import dataclasses
import errno
import json
from pathlib import Path
from typing import Any, get_args

import pytest

from autoround.errors import OutputError
from autoround.events import (
    BlockDone,
    EndToEndStep,
    Event,
    Finished,
    Judged,
    Planned,
    StageStarted,
    StepDone,
    Warned,
)
from autoround.report.event_log import SCHEMA, EventLog, event_name, event_values
from autoround.types import EvalResult

from ._values import ESTIMATE, plan, result

PAGE = Path(__file__).resolve().parents[3] / "docs" / "events.md"


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_event_is_in_the_file_when_it_was_told(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    log = EventLog(path, clock=lambda: 1.5)
    log(StageStarted("tune", "2 blocks"))
    # Nothing is closed or flushed: whatever ends the process, it is there.
    start, stage = lines_of(path)
    assert start["event"] == "log_started"
    assert start["schema"] == SCHEMA
    assert stage == {"time": 1.5, "event": "stage_started", "stage": "tune", "detail": "2 blocks"}
    log(BlockDone(result(1), 2))
    block = lines_of(path)[-1]
    assert (block["event"], block["index"], block["blocks"]) == ("block_done", 1, 2)
    assert block["loss_before"] == result(1).loss_before


def test_steps_are_told_a_few_times_a_second_and_the_last_always(tmp_path: Path) -> None:
    path, now = tmp_path / "run.jsonl", [0.0]
    with EventLog(path, clock=lambda: now[0]) as log:
        for step in range(1, 101):
            now[0] += 0.01
            log(StepDone(0, step, 100, 0.1))
        log(EndToEndStep(100, 100, 0.1, 0.2))
    steps = [line["step"] for line in lines_of(path) if line["event"] == "step_done"]
    assert steps[-1] == 100
    assert 4 <= len(steps) <= 6
    assert lines_of(path)[-1]["initial_loss"] == 0.2


def test_a_file_that_is_there_is_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    # The last line of a process that a power cut ended.
    path.write_text('{"event": "log_started"}\n{"event": "step_d')
    with EventLog(path) as log:
        log(Finished("out", 1.0, 2))
    first, _, start, end = path.read_text().splitlines()
    assert json.loads(first)["event"] == json.loads(start)["event"] == "log_started"
    assert json.loads(end)["event"] == "finished"


def test_a_file_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        EventLog(tmp_path / "no" / "such" / "folder.jsonl")


def test_a_full_disk_ends_the_log_with_a_warning_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Event] = []
    log = EventLog(tmp_path / "run.jsonl", warn=told.append)

    def full(data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(log._file, "write", full)
    log(StageStarted("write"))
    log(StageStarted("verify"))
    (warning,) = told
    assert isinstance(warning, Warned)
    assert "takes no more events: No space left on device" in warning.message


def test_every_event_is_json_and_on_the_page(tmp_path: Path) -> None:
    page = PAGE.read_text(encoding="utf-8")
    for kind in get_args(Event):
        name = event_name.__call__(object.__new__(kind))
        assert f"| `{name}` |" in page
        if kind not in (Planned, BlockDone):
            for field in dataclasses.fields(kind):
                assert f"`{field.name}`" in page, (name, field.name)
    for event in (
        Planned(plan(), ESTIMATE),
        BlockDone(result(0), 2),
        Judged("out", "kl<=1", EvalResult(1.0, 2)),
    ):
        for key in event_values(event):
            assert f"`{key}`" in page, (event_name(event), key)
        json.dumps(event_values(event))
