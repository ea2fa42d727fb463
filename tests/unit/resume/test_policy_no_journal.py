"""A run that keeps no journal: same bytes, nothing on the disk but the output, no way back."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoround.errors import OutputError, UsageError
from autoround.events import BlockDone, Event, Planned, Warned
from autoround.report.plan import plan_lines
from autoround.types import Destination

from .test_policy import Stop, content, interrupted, model, quantize  # noqa: F401


def test_nothing_but_the_output_is_written(model: Path, tmp_path: Path) -> None:  # noqa: F811
    names: set[str] = set()
    events: list[Event] = []

    def sink(event: Event) -> None:
        names.update(p.name for p in tmp_path.iterdir())
        events.append(event)

    quantize(model, tmp_path / "out", sink=sink, journal=False)
    assert names == {"out.partial", "out"}
    (planned,) = [event for event in events if isinstance(event, Planned)]
    assert planned.estimate.journal_bytes == 0
    lines = plan_lines(planned.plan, planned.estimate)
    assert "journal      none: a run that is stopped begins anew" in lines
    assert not [event for event in events if isinstance(event, Warned)]
    quantize(model, tmp_path / "kept")
    assert content(tmp_path / "out") == content(tmp_path / "kept")


def test_a_stopped_run_leaves_nothing(model: Path, tmp_path: Path) -> None:  # noqa: F811
    def stop(event: Event) -> None:
        if isinstance(event, BlockDone):
            raise Stop

    with pytest.raises(Stop):
        quantize(model, tmp_path / "out", sink=stop, journal=False)
    assert list(tmp_path.iterdir()) == []
    # What another run left is not thrown away unasked, and is gone once that is asked for.
    interrupted(model, tmp_path / "out")
    with pytest.raises(OutputError, match="1 finished block of an interrupted run"):
        quantize(model, tmp_path / "out", journal=False)
    with pytest.raises(Stop):
        quantize(model, tmp_path / "out", sink=stop, journal=False, restart=True)
    assert list(tmp_path.iterdir()) == []


def test_it_is_not_gone_on_from(model: Path, tmp_path: Path) -> None:  # noqa: F811
    with pytest.raises(UsageError, match="--no-journal .* keeps none: ask for one of them"):
        quantize(model, tmp_path / "out", journal=False, resume=True)
    assert Destination(tmp_path).journal


def test_memory_that_needs_the_disk_is_refused(model: Path, tmp_path: Path) -> None:  # noqa: F811
    with pytest.raises(UsageError, match="where nothing goes to the disk .*leave --no-journal out"):
        quantize(model, tmp_path / "out", journal=False, max_memory=1_000)
    assert not (tmp_path / "out").exists()
