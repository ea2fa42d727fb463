"""What every block of a run shares."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from autoround.session.session import Placement, make_runner
from autoround.types import Estimate

from ...runs import NEAREST, make_session
from ...tiny import make_model, token_ids

IDS = token_ids(4, 16)
ESTIMATE = Estimate(0, 0, 0, 0.0, 0.0, 4.0)


@dataclass
class Store:
    done: int


def store(done: int) -> Any:
    return Store(done)


@pytest.mark.parametrize("stored", [True, False])
def test_nothing_lives_on_the_disk_without_a_store(stored: bool) -> None:
    every = replace(
        ESTIMATE,
        streams_on_disk=True,
        streams_on_device=True,
        codes_on_disk=True,
        graphs_held=True,
    )
    assert Placement.of(every, stored=stored) == Placement(stored, True, stored, True)
    assert Placement.of(ESTIMATE, stored=stored) == Placement()


def test_streams_are_on_the_host_unless_they_are_placed_on_the_device() -> None:
    session = make_session(make_model("llama"), data=IDS)
    runtime: Any = Elsewhere(torch.device("meta"))
    away = replace(session, runtime=runtime)
    assert away.stream_device == torch.device("cpu")
    placed = replace(away, placement=Placement(streams_on_device=True))
    assert placed.stream_device == torch.device("meta")


@dataclass
class Elsewhere:
    device: torch.device


def test_finished_blocks_are_those_of_the_store_and_no_more_than_there_are() -> None:
    session = make_session(make_model("llama"), NEAREST)
    assert session.finished_blocks == 0
    # What lies outside the blocks is a unit as well.
    assert [replace(session, store=store(n)).finished_blocks for n in range(4)] == [0, 1, 2, 2]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_blocks_run_in_the_dtype_of_the_plan(dtype: str) -> None:
    session = make_session(make_model("llama"), {"tuning.compute_dtype": dtype}, data=IDS)
    assert session.compute_dtype == getattr(torch, dtype)
    assert session.tuning is session.plan.tuning
    assert make_runner(session).embed(IDS).dtype == session.compute_dtype


def test_layers_outside_the_blocks_are_those_with_a_scheme() -> None:
    plain = make_session(make_model("llama"), NEAREST)
    assert plain.non_block_layers == []
    head = make_session(make_model("llama"), {**NEAREST, "lm_head.bits": 8})
    assert [layer.name for layer in head.non_block_layers] == ["lm_head"]


@pytest.mark.parametrize("planned", [True, False])
@pytest.mark.parametrize("wanted", [True, False])
def test_a_compiled_call_is_used_where_the_plan_has_one(
    planned: bool, wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = make_session(make_model("llama"), data=IDS)
    plan = replace(session.plan, tuning=replace(session.tuning, compiled=planned))
    calls: list[str] = []

    def compile(call: Any) -> Any:
        def compiled(*args: Any) -> Any:
            calls.append("compiled")
            return call(*args)

        return compiled

    monkeypatch.setattr(session.runtime, "compile", compile)
    session = replace(session, plan=plan)
    runner = make_runner(session, compiled=wanted)
    runner.prepare(IDS)
    block = session.plan.blocks[0]
    tensors = block.by_param(session.skeleton.read(session.skeleton.names_under(block.name)))
    hidden = runner.embed(IDS)
    runner.run(0, tensors, hidden=hidden)
    assert calls == []
    runner.run(0, tensors, hidden=hidden, compiled=True)
    assert calls == ["compiled"] * (planned and wanted)
