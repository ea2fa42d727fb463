"""A probe runs the tuning of a block, writes nothing, and scales what it measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from autoround.device.registry import open_device
from autoround.errors import ModelError
from autoround.events import ignore
from autoround.model.skeleton import Skeleton, open_model
from autoround.planning.work import plan_work
from autoround.preparation import Prepared, Request, prepare
from autoround.time_probe import HIGH, LOW, PASSES, probe_time

from ..runs import NEAREST, even_device, make_prepared, small
from ..tiny import make_model, token_ids

__all__ = ["even_device"]
IDS = token_ids(4, 16)


def phases(prepared: Prepared) -> dict[str, float]:
    return dict(probe_time(prepared).estimate.probed)


class Ticks:
    """A clock that counts how often it is asked: seconds without any noise.

    later: what a tick is from the 9th on: a block without data takes ten.
    """

    def __init__(self, tick: float = 1.0, later: float | None = None) -> None:
        self.count, self.now = 0, 0.0
        self.tick, self.later = tick, tick if later is None else later

    def __call__(self) -> float:
        self.count += 1
        self.now += self.tick if self.count < 9 else self.later
        return self.now


def by_ticks(values: dict[str, object], clock: Ticks | None = None) -> dict[str, float]:
    prepared = make_prepared(make_model("llama"), values, data=token_ids(8, 16))
    return dict(probe_time(prepared, clock=clock or Ticks()).estimate.probed)


def test_parts_add_up_to_the_range() -> None:
    prepared = make_prepared(make_model("llama"), data=IDS)
    estimate = probe_time(prepared).estimate
    total = sum(seconds for _, seconds in estimate.probed)
    assert total > 0
    assert (estimate.seconds_low, estimate.seconds_high) == (LOW * total, HIGH * total)
    assert (
        dataclasses.replace(
            estimate,
            seconds_low=prepared.estimate.seconds_low,
            seconds_high=prepared.estimate.seconds_high,
            probed=(),
        )
        == prepared.estimate
    )


def test_steps_samples_and_blocks_scale_what_grows_with_them() -> None:
    base = by_ticks({"tuning.iters": 10, "calibration.nsamples": 4})
    more = by_ticks({"tuning.iters": 100, "calibration.nsamples": 4})
    assert more["steps"] == pytest.approx(10 * base["steps"])
    assert more["initialise"] == base["initialise"]
    # Two blocks of a kind, one of which is measured.
    assert base["initialise"] == 2 * 1
    twice = by_ticks({"tuning.iters": 10, "calibration.nsamples": 8})
    assert twice["forward"] == pytest.approx(2 * base["forward"])
    assert twice["steps"] == base["steps"]


def test_what_the_first_block_takes_longer_counts_once() -> None:
    even = by_ticks(NEAREST, Ticks(0.1))
    slow = by_ticks(NEAREST, Ticks(0.5, later=0.1))
    assert "first block" not in even
    assert slow["first block"] > 0
    assert slow["initialise"] == pytest.approx(even["initialise"])


def test_a_long_block_is_tuned_once() -> None:
    short, long = Ticks(0.01), Ticks(100.0)
    by_ticks(NEAREST, short)
    found = by_ticks(NEAREST, long)
    assert "first block" not in found
    assert long.count < short.count


def test_the_last_block_of_all_ends_the_quantized_stream() -> None:
    found = by_ticks({"tuning.iters": 4, "calibration.nsamples": 4})
    # Two blocks, of four samples as in the probe.
    assert found["forward"] == 2 * 1
    assert found["forward quantized"] == 1


def test_without_data_reading_rounding_and_packing_are_measured() -> None:
    found = phases(make_prepared(make_model("llama"), NEAREST))
    assert {"read", "initialise", "pack", "write and verify"} <= found.keys()
    assert "steps" not in found or found["steps"] == 0


def test_further_stages_are_counted_by_their_work() -> None:
    plain = by_ticks({})
    whole = by_ticks({"end_to_end.steps": 5})
    assert "end to end" not in plain
    # By what passes through the blocks take, not by what reading and initialising them does.
    work = plan_work(make_prepared(make_model("llama"), {"end_to_end.steps": 5}, data=IDS).plan)
    passes = sum(whole.get(name, 0.0) for name in PASSES)
    assert passes < 0.9 * sum(whole.values())
    assert whole["end to end"] == pytest.approx(passes * work.end_to_end / work.blocks, rel=0.2)


def test_nothing_is_written(
    checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert phases(make_prepared(checkpoint("llama"), data=IDS))["steps"] > 0
    assert list(tmp_path.iterdir()) == []


class _Absent:
    """Headers of weights that are not here."""

    def __init__(self, skeleton: Skeleton) -> None:
        self._headers = skeleton.source.headers()

    def headers(self) -> object:
        return self._headers

    def read(self, names: object) -> dict[str, torch.Tensor]:
        raise ModelError("a weight was fetched")


class _Hub:
    commit = "0" * 40

    def missing(self) -> list[str]:
        return ["model.safetensors"]


def test_weights_that_are_not_here_are_random_ones(checkpoint: Callable[[str], Path]) -> None:
    here = open_model(checkpoint("llama"))
    away = dataclasses.replace(here, source=_Absent(here), hub=_Hub())  # type: ignore[arg-type]
    request = Request(away, small(), open_device("cpu"), "tiny", None, IDS)
    assert phases(prepare(request, sink=ignore))["steps"] > 0


def test_every_kind_of_block_is_measured() -> None:
    values: dict[str, object] = {"layers": [{"match": "*.0.*", "bits": 3}]}
    same, two = by_ticks({"tuning.iters": 4}), by_ticks({"tuning.iters": 4, **values})
    # One block of each of two kinds, in place of one that counts for both.
    assert two["steps"] == pytest.approx(same["steps"])
    assert two["other blocks"] == 0
