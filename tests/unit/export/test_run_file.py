from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import datetime, timezone

from autoround._version import __version__
from autoround.events import Event, StageStarted, Warned
from autoround.export.run_file import RunFacts, RunRecorder, run_values
from autoround.planning.estimate import quantized_bits

from ..report._values import ESTIMATE, plan


def counter(*values: float) -> Callable[[], float]:
    numbers: Iterator[float] = iter(values)
    return lambda: next(numbers)


def recorder(*times: float, seen: list[Event] | None = None) -> RunRecorder:
    events: list[Event] = [] if seen is None else seen
    peaks = iter(range(100, 10**6, 100))
    return RunRecorder(events.append, peak_bytes=lambda: next(peaks), clock=counter(*times))


def test_phases_are_what_lies_between_stages() -> None:
    seen: list[Event] = []
    record = recorder(0, 2, 5, 6, 10, 11, 15, seen=seen)
    events: list[Event] = [
        StageStarted("score"),
        StageStarted("allocate"),
        StageStarted("tune"),
        Warned("slow"),
        StageStarted("write"),
        StageStarted("verify"),
    ]
    for event in events:
        record(event)
    assert seen == events
    assert [(p.name, p.seconds, p.peak_bytes) for p in record.phases()] == [
        ("prepare", 3, 300),  # before scoring, and after it
        ("score", 3, 200),
        ("tune", 4, 400),
        ("write", 1, 500),
        ("verify", 4, 600),
    ]
    assert record.warnings == ["slow"]
    assert not record.resumed


def test_a_second_pass_adds_to_the_first() -> None:
    record = recorder(0, 1, 1, 3, 4, 5, 9)
    for stage in ("tune", "pass", "write", "pass", "write"):
        record(StageStarted(stage))
    assert [(p.name, p.seconds) for p in record.phases()] == [
        ("prepare", 1),
        ("tune", 3),
        ("write", 5),
    ]


def test_a_clock_that_goes_back_adds_nothing() -> None:
    record = recorder(5, 1, 2)
    record(StageStarted("tune"))
    assert [(p.name, p.seconds) for p in record.phases()] == [("prepare", 0), ("tune", 1)]


def test_a_run_that_goes_on_says_so() -> None:
    record = recorder(0, 1, 2)
    record(StageStarted("resume", "1 of 2 blocks are done"))
    assert record.resumed


def test_the_values_are_json_and_say_when() -> None:
    record = recorder(0, 1, 3)
    record(StageStarted("tune"))
    one_plan = plan(values={"tuning.iters": 0, "tuning.init_scale": "minmax"})
    facts = RunFacts(ESTIMATE, 2, in_memory=False, own_data=True)
    when = datetime(2026, 1, 2, tzinfo=timezone.utc)
    values = run_values(record, facts, one_plan, predicted_bytes=10, now=lambda: when)
    read = json.loads(json.dumps(values))
    lists = {"output": {"types": []}, "estimate": {"probed": []}}
    assert read == values | {name: values[name] | lists[name] for name in lists}
    assert values["finished"] == "2026-01-02T00:00:00+00:00"
    assert (values["seconds"], values["peak_bytes"]) == (3, 200)
    assert (values["formats"], values["own_data"], values["predicted_bytes"]) == (2, True, 10)
    assert values["method"] == "rtn (round to nearest)"
    assert values["bits_per_weight"] == quantized_bits(one_plan)
    assert values["versions"]["autoround"] == __version__
    assert {"Python", "torch", "transformers"} <= values["versions"].keys()
    assert values["estimate"]["disk_bytes"] == ESTIMATE.disk_bytes
