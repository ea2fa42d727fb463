"""Clocks that jump by days while a run lasts: the same bytes, and no time that cannot be."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ..jobs import JOBS, Inputs, command, make_inputs
from ..runs import even_device, one_core

__all__ = ["even_device"]

CLOCKS = ("time", "monotonic", "perf_counter", "process_time", "thread_time")
DAY = 86400.0


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    with one_core():
        return make_inputs(tmp_path_factory.mktemp("inputs"))


def jumping(clock: Callable[[], float], *, seed: str, jumps: list[float]) -> Callable[[], float]:
    """Return a clock that goes back or forward by days at every call."""
    rng = random.Random(seed)

    def read() -> float:
        jumps.append(rng.choice([-1, 1]) * rng.uniform(1, 9) * DAY)
        return clock() + sum(jumps)

    return read


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", ["auto_round", "allocate"])
def test_clocks_that_jump_change_nothing(
    name: str, seed: int, inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, (whole, place) = JOBS[name], (tmp_path / "whole", tmp_path / "place")
    whole.mkdir()
    place.mkdir()
    assert command(job.words(inputs, whole)).code == 0
    jumps: list[float] = []
    with monkeypatch.context() as patch:
        for clock in CLOCKS:
            jumper = jumping(getattr(time, clock), seed=f"{seed} {clock}", jumps=jumps)
            patch.setattr(time, clock, jumper)
        # Speed is measured by the clock, and decides nothing but the estimate.
        done = command(job.words(inputs, place))
    assert done.code == 0, done.err
    assert min(jumps) < 0 < max(jumps)
    assert len(jumps) > 1
    assert job.result(place) == job.result(whole)
    assert re.findall(r"(?<![\w./-])-\d[\d.]* (?:s|min|h)\b", done.out + done.err) == []
    seconds = [
        json.loads(line)["seconds"]
        for report in place.rglob("report.jsonl")
        for line in report.read_text().splitlines()
    ]
    seconds += [json.loads(path.read_text())["seconds"] for path in place.glob("scores.json")]
    assert seconds
    assert all(value >= 0 for value in seconds)
