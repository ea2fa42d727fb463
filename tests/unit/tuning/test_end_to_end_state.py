"""How far end-to-end tuning has come is saved, and put back bit for bit."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from autoround.core.end_to_end import AdamState, init
from autoround.resume.journal import PassJournal
from autoround.session.session import Session
from autoround.tuning.end_to_end_state import INTERVAL, StateKeeper

from ...runs import NEAREST, make_session
from ...tiny import make_model


def session(folder: Path | None) -> Session:
    plain = make_session(make_model("llama"), NEAREST)
    if folder is None:
        return plain
    return replace(plain, store=PassJournal(folder / "pass-1", folder / "streams"))


def learned(seed: int) -> tuple[dict[str, list[Tensor]], AdamState]:
    """Return what is learned, as steps leave it: factors of two sizes, votes, and averages."""
    torch.manual_seed(seed)
    factors = [torch.rand(4, 2, 1), torch.rand(3, 1, 1)]
    votes = [torch.randint(-100, 100, (4, 2, 8), dtype=torch.int8)]
    state = init(factors, lrs=[0.1, 0.2], steps=9)
    for tensor in (*state.means, *state.squares):
        tensor.copy_(torch.rand_like(tensor))
    return {"factor": factors, "vote": votes}, state._replace(step=5)


def everything(own: Mapping[str, list[Tensor]], state: AdamState) -> list[Tensor]:
    return [*itertools.chain(*own.values()), *state.means, *state.squares]


@pytest.mark.parametrize("after", [None, 0.25])
def test_everything_is_put_back_in_place(
    after: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, state = learned(0)
    keeper = StateKeeper(session(tmp_path), own)
    later(monkeypatch, INTERVAL)
    keeper.keep(state, before=0.5, after=after)
    other, fresh = learned(1)
    places = [tensor.data_ptr() for tensor in everything(other, fresh)]
    fresh = fresh._replace(step=0)
    found, losses = StateKeeper(session(tmp_path), other).restore(fresh)
    assert losses == ({"before": 0.5} if after is None else {"before": 0.5, "after": after})
    assert (found.step, found.steps, found.lrs) == (5, 9, (0.1, 0.2))
    for tensor, wanted in zip(everything(other, found), everything(own, state), strict=True):
        assert torch.equal(tensor, wanted)
    assert [tensor.data_ptr() for tensor in everything(other, found)] == places


def later(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let the clock go on."""
    import time

    now = time.monotonic() + seconds
    monkeypatch.setattr(time, "monotonic", lambda: now)


def test_it_is_saved_every_so_often_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, state = learned(0)
    job = session(tmp_path)
    keeper = StateKeeper(job, own)

    def saved() -> int | None:
        restored, _ = StateKeeper(job, learned(1)[0]).restore(learned(1)[1]._replace(step=0))
        return restored.step

    keeper.keep(state, before=1.0)
    assert saved() == 0
    later(monkeypatch, INTERVAL)
    keeper.keep(state, before=1.0)
    assert saved() == 5
    keeper.keep(state._replace(step=6), before=1.0)
    assert saved() == 5
    keeper.keep(state._replace(step=9), before=1.0, after=0.5)
    assert saved() == 9


def test_without_a_store_nothing_is_kept(tmp_path: Path) -> None:
    own, state = learned(0)
    keeper = StateKeeper(session(None), own)
    keeper.keep(state, before=1.0, after=0.5)
    before = [tensor.clone() for tensor in everything(own, state)]
    found, losses = keeper.restore(state)
    assert found is state
    assert losses == {}
    assert all(map(torch.equal, everything(own, state), before))


def test_a_store_that_holds_none_changes_nothing(tmp_path: Path) -> None:
    own, state = learned(0)
    found: tuple[AdamState, dict[str, Any]] = StateKeeper(session(tmp_path), own).restore(state)
    assert found == (state, {})
