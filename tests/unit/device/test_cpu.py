from __future__ import annotations

import builtins
from typing import Any

import pytest
import torch

from autoround.errors import DeviceError
from autoround_backends.cpu import BACKEND, CpuRuntime


def test_it_is_always_there() -> None:
    found = BACKEND.probe()
    assert found.available
    assert found.devices == ("cpu",)
    assert found.reason == f"{torch.get_num_threads()} threads"


def test_there_is_one() -> None:
    assert BACKEND.open(None).device == BACKEND.open(0).device == torch.device("cpu")
    with pytest.raises(DeviceError, match="use 'cpu', not 'cpu:3'"):
        BACKEND.open(3)


def test_speeds_are_measured_once_float32_first_unless_it_is_slow() -> None:
    runtime = BACKEND.open(None)
    speeds = runtime.speeds()
    assert {speed.dtype for speed in speeds} == {torch.float32, torch.bfloat16}
    assert all(speed.flops > 0 for speed in speeds)
    assert runtime.speeds() is speeds
    first, second = speeds
    assert first.dtype == torch.float32 or first.flops >= 1.2 * second.flops


def test_memory_is_that_of_the_machine() -> None:
    memory = BACKEND.open(None).memory()
    assert 0 < memory.free <= memory.total
    assert 1 << 28 < memory.total < 1 << 50


def test_memory_is_known_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = builtins.open

    def no_proc(file: Any, *args: Any, **kwargs: Any) -> Any:
        if file == "/proc/meminfo":
            raise FileNotFoundError(file)
        return opened(file, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", no_proc)
    memory = CpuRuntime().memory()
    assert 0 < memory.free <= memory.total


def test_the_peak_grows_with_what_is_used() -> None:
    runtime = BACKEND.open(None)
    before = runtime.peak_bytes()
    assert 1 << 24 < before < runtime.memory().total
    held = torch.ones(1 << 24)
    assert runtime.peak_bytes() >= before
    assert runtime.peak_bytes() >= held.numel() * 4
    runtime.synchronize()
    runtime.release()
