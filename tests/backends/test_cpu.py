from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest
import torch

from autoround.core.ops import TorchOps
from autoround.device.protocol import Speed
from autoround.errors import DeviceError
from autoround_backends import _native, cpu
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


@pytest.mark.parametrize(
    ("speeds", "given", "chosen"),
    [
        ({8: 100.0, 4: 60.0}, 8, 8),
        # Noise does not decide; twice as fast does, and so on.
        ({8: 100.0, 4: 120.0}, 8, 8),
        ({8: 100.0, 4: 200.0, 2: 150.0}, 8, 4),
        ({8: 10.0, 4: 20.0, 2: 40.0, 1: 60.0}, 8, 1),
        ({}, 1, 1),
    ],
)
def test_threads_are_measured(
    speeds: dict[int, float], given: int, chosen: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = [given]

    def measured(self: CpuRuntime, dtype: torch.dtype) -> Speed:
        return Speed(dtype, speeds[threads[0]])

    def set_threads(count: int) -> None:
        threads[0] = count

    monkeypatch.setattr(torch, "get_num_threads", lambda: threads[0])
    monkeypatch.setattr(torch, "set_num_threads", set_threads)
    monkeypatch.setattr(cpu, "allowed_threads", lambda: 64)
    monkeypatch.setattr(CpuRuntime, "_measured", measured)
    runtime = CpuRuntime()
    assert runtime.threads == chosen
    assert threads == [given], "put back"
    with runtime.computing():
        assert threads == [chosen]
    assert threads == [given]


def test_a_container_has_what_it_is_given(tmp_path: Path) -> None:
    quota = tmp_path / "cpu.max"
    everything = cpu.allowed_threads(quota)
    assert everything >= 1, "there is no such file"
    for text, wanted in (("max 100000", everything), ("100000 100000", 1), ("50000 100000", 1)):
        quota.write_text(text)
        assert cpu.allowed_threads(quota) == wanted
    quota.write_text("6400000 100000")
    assert cpu.allowed_threads(quota) == everything


def test_without_a_compiler_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [note.slower for note in CpuRuntime().notes()].count(True) <= 1
    monkeypatch.setattr(_native, "load", lambda: _native.Native(None, "no C compiler"))
    note = CpuRuntime().notes()[-1]
    assert note == ("fake-quantize and sign step in plain torch: no C compiler", True)
    assert type(CpuRuntime().ops) is TorchOps
