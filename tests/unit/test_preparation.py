"""Everything that can be checked before the first block is, and the plan and its cost are told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from autoround.device.registry import open_device
from autoround.errors import DataError, FormatError, ModelError, RecipeError, UsageError
from autoround.events import Event, Planned, Warned, ignore
from autoround.model.skeleton import adopt_model
from autoround.preparation import Request, open_session, prepare, scoring_session

from ..runs import NEAREST, even_device, make_prepared, small
from ..tiny import make_model, token_ids

__all__ = ["even_device"]
IDS = token_ids(4, 16)


def request(values: dict[str, object] | None = None, *, data: object | None = IDS) -> Request:
    skeleton = adopt_model(make_model("llama"))
    return Request(skeleton, small(values), open_device("cpu"), "tiny", None, data)


def test_the_plan_and_its_cost_are_told_once() -> None:
    events: list[Event] = []
    found = prepare(request(), sink=events.append)
    planned = [event for event in events if isinstance(event, Planned)]
    assert planned == [Planned(found.plan, found.estimate)]
    assert found.plan.model == "tiny"
    assert found.allocation is None
    assert found.recipe == found.request.recipe
    assert found.calibration.tokens is not None


def test_a_session_is_of_the_first_pass_with_nothing_on_the_disk() -> None:
    prepared = make_prepared(make_model("llama"), data=IDS)
    session = open_session(prepared, sink=ignore)
    assert session.plan is prepared.plan
    assert session.store is None
    assert not session.placement.streams_on_disk
    assert session.tokens is prepared.calibration.tokens


def test_rounding_reads_no_data() -> None:
    prepared = prepare(request(NEAREST, data=None), sink=ignore)
    assert prepared.calibration.tokens is None
    assert open_session(prepared, sink=ignore).tokens is None


@pytest.mark.parametrize(
    ("values", "means", "error", "words"),
    [
        ({}, {"max_memory": 1 << 20}, UsageError, "--max-memory allows 0.0 GB"),
        ({"scheme.group_size": 40}, {}, ModelError, "group size 40 divides"),
        ({"ignore": ["no_such"]}, {}, RecipeError, "'no_such' matches no layer"),
        ({"allocate.avg_bits": 4.0}, {"may_score": False}, UsageError, "'autoround allocate'"),
    ],
)
def test_what_would_stop_a_run_stops_it_here(
    values: dict[str, object], means: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        prepare(request(values), sink=ignore, **means)


def test_a_tokenizer_that_has_no_place_in_a_file_is_told_before_the_blocks() -> None:
    values = {**NEAREST, "output.format": "gguf:q8_0", "output.dtype": "auto"}
    asked = request(values, data=None)
    with pytest.raises(FormatError, match="tokenizer"):
        prepare(replace(asked, tokenizer=object()), sink=ignore)


def test_data_that_are_none_are_told() -> None:
    with pytest.raises(DataError):
        prepare(request(data=[]), sink=ignore)


def test_short_memory_is_a_warning_where_nobody_set_a_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from autoround.device.protocol import Memory

    asked = request()
    monkeypatch.setattr(asked.runtime, "memory", lambda: Memory(10 << 20, 10 << 20))
    events: list[Event] = []
    prepare(asked, sink=events.append)
    warned = [event.message for event in events if isinstance(event, Warned)]
    assert any("of memory will be needed, and 0.0 GB are free" in message for message in warned)


def test_a_budget_becomes_rules_and_layers_are_scored_as_if_there_were_none() -> None:
    values: dict[str, object] = {
        "scheme.sym": False,
        "tuning.iters": 0,
        "allocate.avg_bits": 4.0,
        "allocate.options": ["W2", "W4"],
    }
    found = prepare(request(values), sink=ignore)
    assert found.allocation is not None
    assert found.recipe.allocate.budgets == {}
    assert {x.scheme.bits for b in found.plan.blocks for x in b.layers if x.scheme} == {2, 4}
    scoring = scoring_session(request(values), sink=ignore)
    assert {x.scheme.bits for b in scoring.plan.blocks for x in b.layers if x.scheme} == {4}
    assert scoring.tokens is not None
