"""Calls are timed on a device's own time: several of them as one recording."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from autoround.device import call_timing
from autoround.device.call_timing import CALLS, TURNS, seconds_of_call
from autoround.errors import DeviceError


class Calls:
    """Counts calls, and spends seconds of a made-up clock on each."""

    def __init__(self, seconds: float) -> None:
        self.count, self.seconds, self.now = 0, seconds, 0.0

    def __call__(self, x: Tensor) -> Tensor:
        self.count += 1
        self.now += self.seconds
        return x


class Runtime:
    """Records a step: plays it without what it takes to ask for each call."""

    def __init__(self, calls: Calls, asking: float) -> None:
        self.calls, self.asking, self.examples = calls, asking, list[Tensor]()

    def capture(self, step: Any, examples: Sequence[Tensor]) -> Any:
        self.examples.extend(examples)

        def play(inputs: Sequence[Tensor]) -> Any:
            self.calls.now += self.asking  # once for all that is recorded
            return step(inputs)

        return play


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A tensor's stand-in on a device, which is waited for by a stand-in of its module."""
    module = SimpleNamespace(synchronize=lambda device: None)
    monkeypatch.setattr(torch, "get_device_module", lambda device: module)
    return SimpleNamespace(device=torch.device("cuda", 1))


def test_a_processor_makes_one_call_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(0.25)
    monkeypatch.setattr(call_timing.time, "perf_counter", lambda: calls.now)
    assert seconds_of_call(calls, torch.ones(1)) == 0.25
    assert calls.count == 1 + TURNS


def test_asking_for_a_call_is_no_part_of_it(monkeypatch: pytest.MonkeyPatch, device: Any) -> None:
    calls = Calls(1e-5)
    runtime = Runtime(calls, asking=1e-5)
    opened: list[str] = []
    monkeypatch.setattr(call_timing, "open_device", lambda name: (opened.append(name), runtime)[1])
    monkeypatch.setattr(call_timing.time, "perf_counter", lambda: calls.now)
    assert seconds_of_call(calls, device) == pytest.approx(1e-5 * (1 + 1 / CALLS))
    assert opened == ["cuda:1"]
    assert runtime.examples == [device]


def test_a_device_without_a_backend_is_timed_call_by_call(
    monkeypatch: pytest.MonkeyPatch, device: Any
) -> None:
    def refuse(name: str) -> Any:
        raise DeviceError("there is no backend of that name")

    calls = Calls(1e-3)
    monkeypatch.setattr(call_timing, "open_device", refuse)
    monkeypatch.setattr(call_timing.time, "perf_counter", lambda: calls.now)
    assert seconds_of_call(calls, device) == pytest.approx(1e-3)
    assert calls.count == CALLS * (1 + TURNS)
