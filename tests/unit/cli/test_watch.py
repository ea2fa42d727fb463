"""What commands tell of a run, where, and how much."""

# Tests: autoround/cli/_watch.py

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autoround.cli._watch import Telling, watching
from autoround.errors import OutputError, UsageError
from autoround.events import Finished, Judged, Warned


def test_less_and_more_at_once_is_refused() -> None:
    with pytest.raises(UsageError, match="give one of them"):
        Telling(quiet=True, verbose=True)


def test_lines_go_to_stdout_or_leave_it_to_the_result(
    capsys: pytest.CaptureFixture[str],
) -> None:
    end = Finished("out", 1.0, 2_000_000)
    for telling, expected in (
        (Telling(), ("done: out, 2.0 MB, 1 s\n", "")),
        (Telling(on_stderr=True), ("", "done: out, 2.0 MB, 1 s\n")),
        (Telling(quiet=True), ("", "")),
    ):
        with watching(telling) as watch:
            watch(end)
        assert capsys.readouterr() == expected
    with watching(Telling(quiet=True)) as watch:
        watch(Warned("mind this"))
    assert capsys.readouterr() == ("", "warning: mind this\n")


def test_events_are_in_their_file_and_verdicts_kept(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    judged = Judged("out", "kl<=1", None, ("NaN",))
    with watching(Telling(quiet=True, events=path)) as watch:
        watch(judged)
        names = [json.loads(line)["event"] for line in path.read_text().splitlines()]
    assert names == ["log_started", "judged"]
    assert watch.judged == [judged]


def test_a_file_for_events_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match="cannot be written"),
        watching(Telling(events=tmp_path / "no" / "file")),
    ):
        pass
