"""What of a recorded run counts as a frame, as the way and as a hop."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import walk
from tools.walk import Function, Walk

MAIN = Function("autoround/cli/main.py", "main", 1)
RUN = Function("autoround/pipeline.py", "run", 1)
CHECK = Function("autoround/planning/plan.py", "check", 1)
LEAF = Function("autoround/planning/plan.py", "leaf", 9)
READ = Function("autoround/model/files/source.py", "read", 1)
END = Function("autoround/core/rounding.py", "fake_quantize", 1)

SOURCE = """
def helper(): pass
def fake_quantize(): pass
def later(): pass
def run():
    [helper() for _ in range(2)]
    fake_quantize()
    later()
"""


def recorded() -> Walk:
    calls = {(MAIN, RUN), (RUN, CHECK), (CHECK, LEAF), (CHECK, READ), (READ, LEAF), (RUN, END)}
    entered = dict.fromkeys((MAIN, RUN, CHECK, LEAF, READ, END))
    return Walk(entered, calls, [MAIN, RUN, END])


def test_the_way_is_the_stack_with_what_it_calls() -> None:
    assert recorded().way() == [MAIN, RUN, CHECK, END]


def test_hops_hand_on_within_the_rooms_of_a_run() -> None:
    # LEAF calls nothing; READ and END serve a run.
    assert recorded().hops() == [MAIN, RUN, CHECK]


def test_a_walk_reads_back_as_it_was() -> None:
    assert walk.from_json(walk.to_json(recorded())) == recorded()


def test_the_table_has_a_column_a_tree() -> None:
    text = walk.table({"old": recorded(), "new": recorded()}, listed=True)
    assert "| frames | 3 | 3 |" in text
    assert "| - in planning | 1 | 1 |" in text
    assert "- autoround/model/files/source.py:1 read" not in text


@pytest.mark.parametrize("folder", ["autoround", "elsewhere"])
def test_only_a_tree_is_recorded_and_only_until_the_end(tmp_path: Path, folder: str) -> None:
    import sys

    scope: dict[str, object] = {}
    # Run before profiling starts: what a module body calls does not count.
    exec(compile(SOURCE, str(tmp_path / folder / "a.py"), "exec"), scope)
    recorder = walk.Recorder(tmp_path)
    sys.setprofile(recorder)
    try:
        scope["run"]()  # type: ignore[operator]
    finally:
        sys.setprofile(None)
    names = [x.name for x in recorder.walk.entered]
    assert names == (["run", "helper", "fake_quantize"] if folder == "autoround" else [])
    assert [x.name for x in recorder.walk.stack] == names[:1] + names[2:]
    assert len(recorder.walk.calls) == max(len(names) - 1, 0)
