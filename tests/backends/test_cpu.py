from __future__ import annotations

import builtins
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from autoround.core.ops import TorchOps
from autoround.device.protocol import Speed
from autoround.errors import DeviceError
from autoround_backends import _native
from autoround_backends._processor import Processor, read_processor
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


@pytest.mark.parametrize(("bfloat16", "first"), [(True, torch.bfloat16), (False, torch.float32)])
def test_the_dtype_is_that_of_the_instructions_whatever_was_measured(
    bfloat16: bool, first: torch.dtype
) -> None:
    runtime = CpuRuntime(Processor(1, bfloat16=bfloat16))
    speeds = runtime.speeds()
    assert speeds[0].dtype == first
    assert {speed.dtype for speed in speeds} == {torch.float32, torch.bfloat16}
    assert all(speed.flops > 0 for speed in speeds)
    assert runtime.speeds() is speeds


@pytest.fixture
def busy() -> Iterator[None]:
    """Keep every core busy with something else."""
    code = "print('begun', flush=True)\nwhile True: pass"
    others = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        for _ in range(2 * (os.cpu_count() or 1))
    ]
    try:
        for other in others:
            assert other.stdout is not None
            assert other.stdout.readline() == b"begun\n"
        yield
    finally:
        for other in others:
            other.kill()
            other.communicate()


def test_products_are_timed_by_the_seconds_of_this_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clocks: list[Callable[[], float]] = []

    def note(*_: object, clock: Callable[[], float], **__: object) -> Speed:
        clocks.append(clock)
        return Speed(torch.float32, 1.0)

    monkeypatch.setattr("autoround.device.runtime.measure_matmul", note)
    CpuRuntime(Processor(1, bfloat16=False)).speeds()
    started, spent = time.perf_counter(), clocks[0]()
    while time.perf_counter() - started < 0.3:
        time.sleep(0.01)
    # Asleep: the clock of a busy machine would have moved by all of it.
    assert clocks[0]() - spent < 0.1


def test_on_a_busy_machine_the_same_is_chosen(busy: None) -> None:
    processor = read_processor()
    torch.set_num_threads(2)
    assert CpuRuntime(processor).threads == min(2, processor.cores)
    if processor.bfloat16 is None or not torch.backends.mkldnn.is_available():
        pytest.skip("the instructions do not say which dtype is right here")
    # Measured in CPU time, where instructions do not tell, the answer is the same.
    unsaid = CpuRuntime(replace(processor, bfloat16=None))
    chosen = [runtime.speeds()[0].dtype for runtime in (CpuRuntime(processor), unsaid)]
    assert chosen == [torch.bfloat16 if processor.bfloat16 else torch.float32] * 2


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


@pytest.mark.parametrize(("torchs", "cores", "threads"), [(8, 3, 3), (2, 64, 2), (1, 1, 1)])
def test_threads_are_the_cores_at_most_what_torch_has(
    torchs: int, cores: int, threads: int
) -> None:
    torch.set_num_threads(torchs)
    runtime = CpuRuntime(Processor(cores, bfloat16=False))
    with runtime.computing():
        assert torch.get_num_threads() == threads
    assert torch.get_num_threads() == torchs, "put back"
    assert runtime.notes()[0].text.startswith(f"{threads} threads, on {cores} cores")


def test_without_a_compiler_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [note.slower for note in CpuRuntime().notes()].count(True) <= 1
    monkeypatch.setattr(_native, "load", lambda: _native.Native(None, "no C compiler"))
    note = CpuRuntime().notes()[-1]
    assert note == ("fake-quantize and sign step in plain torch: no C compiler", True)
    assert type(CpuRuntime().ops) is TorchOps


def test_that_blocks_cannot_be_compiled_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = CpuRuntime()
    before = runtime.notes()
    monkeypatch.setattr("autoround_backends.cpu.why_not_compiled", lambda: "no C++ compiler")
    assert runtime.compiles_from() == float("inf")
    (note,) = set(runtime.notes()) - set(before)
    assert note.slower
    assert "not compiled" in note.text
    assert note.text.endswith("no C++ compiler")
