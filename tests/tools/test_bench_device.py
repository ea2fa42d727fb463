"""The bench on a device: parts of a run, clocks, rows as they come, what is extrapolated."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
BENCH = ROOT / "tools" / "bench"
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _beside(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(BENCH))
    known = set(sys.modules)
    yield
    for name in set(sys.modules) - known:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(BENCH)):
            del sys.modules[name]


class Log:
    def __init__(self) -> None:
        self.seen: list[str] = []

    def enter(self, part: Any) -> None:
        self.seen.append(f"+{part.name}")

    def leave(self, part: Any) -> None:
        self.seen.append(f"-{part.name}")


def test_every_part_of_the_table_is_there_and_is_put_back() -> None:
    parts = importlib.import_module("parts")
    places = [parts._place(part.place) for part in parts.PARTS]
    before = [vars(holder)[name] for holder, name in places]
    log = Log()
    with parts.watch(log):
        changed = [vars(holder)[name] for holder, name in places]
    assert all(new is not old for new, old in zip(changed, before, strict=True))
    assert [vars(holder)[name] for holder, name in places] == before
    assert len({part.name for part in parts.PARTS}) == len(parts.PARTS)


def test_a_part_that_is_renamed_is_missed_aloud() -> None:
    parts = importlib.import_module("parts")
    from autoround.core import gptq

    there = parts.Part("columns", "hessian", "autoround.core.gptq:gptq_block")
    gone = parts.Part("x", "x", "autoround.core.gptq:round_panel")
    original = gptq.gptq_block
    with (
        pytest.raises(AttributeError, match=r"round_panel is no more"),
        parts.watch(Log(), (there, gone)),
    ):
        raise AssertionError("never begun")
    assert gptq.gptq_block is original


def test_the_seconds_of_a_part_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    clock_module, parts = importlib.import_module("part_clock"), importlib.import_module("parts")
    now = [0.0]
    monkeypatch.setattr(clock_module.time, "perf_counter", lambda: now[0])
    clock = clock_module.PartClock(CPU)
    outer, inner = parts.Part("outer", "a", "m:f"), parts.Part("inner", "b", "m:g")
    for part, spent in ((outer, 1.0), (inner, 2.0)):
        now[0] += spent
        clock.enter(part)
    now[0] += 4.0
    clock.leave(inner)
    now[0] += 8.0
    clock.leave(outer)
    assert clock.seconds_by_part() == {"other": 1.0, "outer": 10.0, "inner": 4.0}
    assert clock.seconds_by_part() == {"other": 0.0}


def test_rows_are_in_the_file_at_once_and_not_measured_twice(tmp_path: Path) -> None:
    clock = importlib.import_module("device_clock")
    place = tmp_path / "rows.jsonl"
    rows = clock.Rows(place, {"device": "a card", "code": "1"})

    def fail() -> dict[str, Any]:
        raise RuntimeError("out of memory\nmore")

    rows.attempt({"phase": "a"}, lambda: {"wall_s": 1.0})
    rows.attempt({"phase": "b"}, fail)
    written = [json.loads(line) for line in place.read_text("utf-8").splitlines()]
    assert [row.get("error") for row in written] == [None, "RuntimeError: out of memory"]
    assert rows.failed == 1
    assert rows.done({"phase": "a"})
    assert not rows.done({"phase": "b"}), "what failed is tried again"
    assert not clock.Rows(place, {"device": "a card", "code": "2"}).done({"phase": "a"})


def test_calls_are_timed_and_disks_too(tmp_path: Path) -> None:
    clock = importlib.import_module("device_clock")
    calls: list[int] = []
    seconds = clock.measure(lambda: calls.append(1), CPU, turns=3, warm=2)
    assert (len(calls), seconds.turns) == (5, 3)
    assert 0 < seconds.device_s == seconds.wall_s < 1
    assert all(speed > 0 for speed in clock.disk_speed(tmp_path, 1 << 20).values())
    assert list(tmp_path.iterdir()) == []


def test_phases_of_a_tiny_block_are_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    phases = importlib.import_module("phases")
    place = tmp_path / "rows.jsonl"
    line = ["--shape", "tiny", "--device", "cpu", "--rows", str(place), "--work", str(tmp_path)]
    line += ["--only", "disk,launch rate,factor,sign step,codes to the host,16 bit"]
    assert phases.main(line) == 0
    rows = [json.loads(each) for each in place.read_text("utf-8").splitlines()]
    names = [row["phase"] for row in rows]
    assert names[:4] == ["disk", "launch rate", "factor, 64", "factor, 128"]
    assert {"sign step", "codes to the host", "product, 16 bit, q, 8 rows"} <= set(names)
    assert all("error" not in row for row in rows)
    assert phases.main(line) == 0
    again = place.read_text("utf-8").splitlines()[len(rows) :]
    assert [json.loads(each)["phase"] for each in again] == ["end"]


OURS = {
    "version": "1",
    "compiled": True,
    "streams_on_device": True,
    "disk_bytes": 10,
    "whole_bytes": 40,
    "device_peak_gb": 1.0,
    "peak_gb": 2.0,
    "effort": {"steps": 200, "batch": 8, "passes": 2, "checked": 80},
    "clocks": {"start": 5.0, "blocks": [9.0, 7.0, 6.0, 4.0], "end": 3.0},
}


@pytest.fixture
def case(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A case of four blocks whose workers are made up."""
    gpu, shapes = importlib.import_module("gpu"), importlib.import_module("geometry")
    sizes = shapes.Geometry(4, "b", ((8, 4), (4, 8)), hidden=4, vocabulary=10, attention=4)
    monkeypatch.setattr(gpu, "geometry", lambda folder: sizes)
    return gpu.Case("tiny", 4, 8, 32, 4, 32, "cpu", "default")


def test_the_whole_is_extrapolated_from_steady_blocks(
    case: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gpu = importlib.import_module("gpu")
    jobs: list[dict[str, Any]] = []

    def call(worker: str, job: dict[str, Any], folder: Path, python: str) -> dict[str, Any]:
        jobs.append(job)
        return OURS

    monkeypatch.setattr(gpu, "call", call)
    row = gpu.ours(case, tmp_path, "ours")
    # start + first + 30 steady + last + end by bytes: 5 + 9 + 30 * 6.5 + 4 + 3 * 4
    assert row["extrapolated_minutes"] == round((5 + 9 + 30 * 6.5 + 4 + 12) / 60, 2)
    assert (row["steady_block_s"], row["extrapolated_to_blocks"]) == (6.5, 32)
    assert jobs[0]["set"] == ["tuning.low_memory=false"], "the recipe as it is"
    short = {**OURS, "clocks": {**OURS["clocks"], "blocks": [9.0, 4.0]}}  # type: ignore[dict-item]
    monkeypatch.setattr(gpu, "call", lambda *given: short)
    with pytest.raises(ValueError, match="give --blocks 3 or more"):
        gpu.ours(replace(case, blocks=2), tmp_path, "ours")


@pytest.mark.parametrize(("name", "own"), [("auto-round", True), ("auto-round, uncompiled", False)])
def test_the_peer_is_what_three_blocks_take_more_than_one(
    case: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, own: bool
) -> None:
    gpu = importlib.import_module("gpu")
    jobs: list[dict[str, Any]] = []

    def call(worker: str, job: dict[str, Any], folder: Path, python: str) -> dict[str, Any]:
        jobs.append(job)
        return {**OURS, "whole_s": 20.0 + 10.0 * job["blocks"]}

    monkeypatch.setattr(gpu, "call", call)
    row = gpu.peer(case, tmp_path, name, "python")
    assert [job["blocks"] for job in jobs] == [1, 3]
    assert {job["own_compile"] for job in jobs} == {own}
    assert row["steady_block_s"] == 10.0
    assert row["extrapolated_minutes"] == round((30.0 + 31 * 10.0) / 60, 2)


def test_the_peer_compiles_as_it_is_installed_or_not_at_all() -> None:
    worker = importlib.import_module("worker_auto_round")
    job = {"bits": 4, "group_size": 128, "asym": False, "nsamples": 1, "seqlen": 1, "seed": 0}
    job |= {"batch_size": 8, "dtype": "bfloat16", "device": "x", "variant": "default", "set": {}}
    assert worker.options_of(job)["enable_torch_compile"] is False
    assert "enable_torch_compile" not in worker.options_of({**job, "own_compile": True})


def test_a_row_that_fails_does_not_end_the_others(
    case: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gpu, clock = importlib.import_module("gpu"), importlib.import_module("device_clock")
    monkeypatch.setattr(gpu, "make_model", lambda case, folder: None)
    monkeypatch.setattr(gpu, "make_tokens", lambda case, place: None)

    def call(worker: str, job: dict[str, Any], folder: Path, python: str) -> dict[str, Any]:
        if worker == "worker_auto_round.py":
            raise RuntimeError("worker_auto_round.py ended with 1: no module named auto_round")
        return {**OURS, "bfloat16": 1000.0}

    monkeypatch.setattr(gpu, "call", call)
    rows = clock.Rows(tmp_path / "rows.jsonl", {})
    options = argparse.Namespace(parts=False, peer="python", low_memory=True)
    gpu.measure_rows(case, rows, tmp_path, options)
    written = [json.loads(x) for x in (tmp_path / "rows.jsonl").read_text("utf-8").splitlines()]
    assert [row["row"] for row in written if "error" in row] == [
        "auto-round",
        "auto-round, uncompiled",
    ]
    assert [row["row"] for row in written if "error" not in row] == [
        *("disk", "ceiling", "ours", "ours, low memory")
    ]


PRETEND = """#!/bin/sh
echo "$@" >> "$LOG"
case "$*" in *turbo*) exit 5 ;; esac
"""


def test_the_card_script_does_each_piece_once_and_says_what_failed(tmp_path: Path) -> None:
    python, log, out = tmp_path / "python", tmp_path / "log", tmp_path / "out"
    python.write_text(PRETEND)
    python.chmod(0o755)
    env = {**os.environ, "PYTHON": str(python), "LOG": str(log), "TINY": "1", "DEVICE": "cpu"}

    def run(**settings: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [BENCH / "card.sh", out, "peer-python"],
            env={**env, **settings},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    none = run(SECONDS_LEFT="10")
    assert none.returncode == 3
    assert "no time was left for: machine tests phases default" in none.stderr
    first = run()
    assert first.returncode == 1
    assert "card: failed: turbo (5)" in first.stderr
    pieces = [json.loads(line) for line in (out / "pieces.jsonl").read_text().splitlines()]
    names = [piece["piece"] for piece in pieces]
    assert names == [
        *("machine", "tests", "phases", "default", "parts", "light", "turbo", "flash"),
        *("small-rtn", "mixture", "hybrid", "low-memory", "products"),
    ]
    asked = log.read_text().splitlines()
    assert any("gpu.py" in line and "--peer peer-python" in line for line in asked)
    log.unlink()
    second = run()
    assert "== default: done before" in second.stdout
    assert second.returncode == 1
    assert [("--recipe turbo" in line) for line in log.read_text().splitlines()] == [True]
