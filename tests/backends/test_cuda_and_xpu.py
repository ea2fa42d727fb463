"""CUDA and XPU, on machines without either: what they say, and how they use torch."""

from __future__ import annotations

import importlib
import re
import sys
import types
from contextlib import nullcontext
from importlib.metadata import PackageNotFoundError
from typing import Any

import pytest
import torch
from torch import Tensor

from autoround.core.ops import TorchOps
from autoround.device.protocol import Availability, Memory, Speed
from autoround.errors import DeviceError
from autoround_backends import _accelerator, cuda, xpu
from autoround_backends._accelerator import AcceleratorRuntime, checked_index

FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16


class FakeModule:
    """Stands for torch.cuda or torch.xpu."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, torch.device | None]] = []

    def device_count(self) -> int:
        return 2

    def mem_get_info(self, device: torch.device) -> tuple[int, int]:
        self.calls.append(("mem_get_info", device))
        return 3 << 30, 8 << 30

    def max_memory_allocated(self, device: torch.device) -> int:
        self.calls.append(("max_memory_allocated", device))
        return 5 << 20

    def max_memory_reserved(self, device: torch.device) -> int:
        self.calls.append(("max_memory_reserved", device))
        return 7 << 20

    def synchronize(self, device: torch.device) -> None:
        self.calls.append(("synchronize", device))

    def empty_cache(self) -> None:
        self.calls.append(("empty_cache", None))

    def device(self, device: torch.device) -> Any:
        return nullcontext()

    stream = graph = device

    def Stream(self, device: torch.device) -> Any:  # noqa: N802
        raise AssertionError("nothing is copied here")

    current_stream = Stream


def test_a_runtime_asks_its_own_device() -> None:
    module = FakeModule()
    runtime = AcceleratorRuntime("cuda", 1, module=module)
    device = torch.device("cuda", 1)
    assert runtime.device == device
    assert runtime.memory() == Memory(total=8 << 30, free=3 << 30)
    assert runtime.peak_bytes() == 5 << 20
    assert runtime.peak_reserved_bytes() == 7 << 20
    runtime.synchronize()
    runtime.release()
    names = ("mem_get_info", "max_memory_allocated", "max_memory_reserved", "synchronize")
    assert module.calls == [*((name, device) for name in names), ("empty_cache", None)]


@pytest.mark.parametrize(
    ("flops", "order"),
    [
        # Of two fast dtypes the one with float32's range, unless it is far slower.
        ((100.0, 800.0, 1000.0), [BF16, FP16, FP32]),
        ((100.0, 800.0, 1300.0), [FP16, BF16, FP32]),
        ((100.0, 900.0, 800.0), [BF16, FP16, FP32]),
        ((100.0, 20.0, 800.0), [FP16, FP32, BF16]),
        ((100.0, 110.0, 110.0), [FP32, BF16, FP16]),
    ],
)
def test_the_dtype_to_compute_in(
    flops: tuple[float, float, float], order: list[torch.dtype], monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds = dict(zip((FP32, BF16, FP16), flops, strict=True))
    measured = []

    def measure(device: torch.device, dtype: torch.dtype, **options: Any) -> Speed:
        measured.append((device, dtype))
        return Speed(dtype, speeds[dtype])

    monkeypatch.setattr("autoround.device.runtime.measure_matmul", measure)
    runtime = AcceleratorRuntime("xpu", 0, module=FakeModule())
    assert [speed.dtype for speed in runtime.speeds()] == order
    assert [speed.dtype for speed in runtime.speeds()] == order
    assert measured == [(torch.device("xpu", 0), dtype) for dtype in (FP32, BF16, FP16)]


def test_indices_are_checked() -> None:
    devices = ("cuda:0", "cuda:1")
    assert checked_index("cuda", None, devices=devices) == 0
    assert checked_index("cuda", 1, devices=devices) == 1
    with pytest.raises(DeviceError, match=r"^cuda:2 does not exist; devices .*: cuda:0, cuda:1$"):
        checked_index("cuda", 2, devices=devices)
    with pytest.raises(DeviceError, match="cuda:0 does not exist"):
        checked_index("cuda", None, devices=())


def test_cuda_ranks_before_xpu_before_the_cpu() -> None:
    assert cuda.BACKEND.rank > xpu.BACKEND.rank > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_an_nvidia_gpu_it_says_why() -> None:
    found = cuda.BACKEND.probe()
    assert not found.available
    assert found.devices == ()
    assert "CUDA" in found.reason
    with pytest.raises(DeviceError, match="cuda:0 does not exist"):
        cuda.BACKEND.open(None)


@pytest.mark.skipif(torch.xpu.is_available(), reason="there is an Intel GPU here")
def test_without_an_intel_gpu_it_says_why() -> None:
    found = xpu.BACKEND.probe()
    assert not found.available
    assert found.devices == ()
    assert "XPU" in found.reason
    with pytest.raises(DeviceError, match="xpu:0 does not exist"):
        xpu.BACKEND.open(None)


def test_what_cuda_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None, raising=False)
    expected = f"torch {torch.__version__} is built without CUDA"
    assert cuda.BACKEND.probe() == Availability(False, expected)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for build in ("cuda", "hip"):
        with monkeypatch.context() as patch:
            patch.setattr(torch.version, build, "13.0")
            assert "finds no usable GPU or driver" in cuda.BACKEND.probe().reason
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"GPU number {index}")
    assert cuda.BACKEND.probe() == Availability(True, "GPU number 0", ("cuda:0", "cuda:1"))
    assert cuda.BACKEND.open(1).device == torch.device("cuda", 1)
    with pytest.raises(DeviceError, match="cuda:2 does not exist"):
        cuda.BACKEND.open(2)


@pytest.fixture
def intel(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Pretend two Intel GPUs; return what gets imported."""
    imported: list[str] = []
    monkeypatch.setattr(torch.xpu, "_is_compiled", lambda: True)
    monkeypatch.setattr(torch.xpu, "is_available", lambda: True)
    monkeypatch.setattr(torch.xpu, "device_count", lambda: 2)
    monkeypatch.setattr(torch.xpu, "get_device_name", lambda index: f"Arc number {index}")
    monkeypatch.setattr(importlib, "import_module", imported.append)
    return imported


def test_what_xpu_says(monkeypatch: pytest.MonkeyPatch, intel: list[str]) -> None:
    assert xpu.BACKEND.probe() == Availability(True, "Arc number 0", ("xpu:0", "xpu:1"))
    with pytest.raises(DeviceError, match="xpu:2 does not exist"):
        xpu.BACKEND.open(2)
    monkeypatch.setattr(torch.xpu, "is_available", lambda: False)
    assert "finds no Intel GPU or driver" in xpu.BACKEND.probe().reason
    monkeypatch.setattr(torch.xpu, "_is_compiled", lambda: False)
    assert xpu.BACKEND.probe().reason == f"torch {torch.__version__} is built without XPU"
    assert intel == []


def install(monkeypatch: pytest.MonkeyPatch, extension: str | None, running: str) -> None:
    """Pretend versions of Intel's extension and of torch."""

    def version(name: str) -> str:
        assert name == "intel-extension-for-pytorch"
        if extension is None:
            raise PackageNotFoundError(name)
        return extension

    monkeypatch.setattr(xpu, "version", version)
    monkeypatch.setattr(torch, "__version__", running)


@pytest.mark.parametrize(
    ("extension", "running", "matches"),
    [
        (None, "2.8.0", False),
        ("2.8.10", "2.8.0", True),
        ("2.8.10+xpu", "2.8.1+xpu", True),
        ("2.8.10", "2.13.0", False),
        ("2.8.10", "2.80.0", False),
        ("2.8", "3.8.0", False),
    ],
)
def test_the_extension_is_loaded_only_beside_its_own_torch(
    extension: str | None,
    running: str,
    matches: bool,
    monkeypatch: pytest.MonkeyPatch,
    intel: list[str],
) -> None:
    install(monkeypatch, extension, running)
    assert xpu.matching_extension() == (extension if matches else None)
    runtime = xpu.BACKEND.open(1)
    assert runtime.device == torch.device("xpu", 1)
    assert intel == (["intel_extension_for_pytorch"] if matches else [])


def test_short_products_only_where_float32_was_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    flops = {FP32: 100.0, BF16: 90.0, FP16: 90.0}
    short = 300.0

    def measure(device: torch.device, dtype: torch.dtype, **options: Any) -> Speed:
        exact = torch.get_float32_matmul_precision() == "highest"
        return Speed(dtype, flops[dtype] if dtype != FP32 or exact else short)

    def inside() -> str:
        with AcceleratorRuntime("cuda", 0, module=FakeModule()).computing():
            return torch.get_float32_matmul_precision()

    monkeypatch.setattr("autoround.device.runtime.measure_matmul", measure)
    assert torch.get_float32_matmul_precision() == "highest"
    assert inside() == "high"
    flops[BF16] = 800.0
    assert inside() == "highest", "bfloat16 is chosen; who asks for float32 gets it"
    flops[BF16], short = 90.0, 110.0
    assert inside() == "highest", "not worth its lost digits"
    assert torch.get_float32_matmul_precision() == "highest"


class Agreeing(TorchOps):
    def __init__(self, device: torch.device, on: Any = None) -> None:
        self.device = device


@pytest.mark.parametrize(
    ("there", "ops", "found", "text", "slower"),
    [
        (False, Agreeing, TorchOps, "in plain torch: triton is not installed", True),
        (True, Agreeing, Agreeing, "in Triton, in agreement with plain torch", False),
        (True, None, TorchOps, "in plain torch: Triton fails: RuntimeError: no ptxas", True),
        (True, "wrong", TorchOps, "Triton kernels disagree with it: levels: 3 of 7", True),
    ],
)
def test_triton_is_used_where_it_agrees(
    there: bool,
    ops: Any,
    found: type,
    text: str,
    slower: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def make(device: torch.device, on: Any = None) -> TorchOps:
        if ops is None:
            raise RuntimeError("no ptxas\nmore")
        return Agreeing(device)

    reason = "levels: 3 of 7 differ" if ops == "wrong" else ""
    monkeypatch.setattr(_accelerator, "find_spec", lambda name: object() if there else None)
    monkeypatch.setattr(_accelerator, "disagreement", lambda ops, device: reason)
    module = types.ModuleType("autoround_backends._triton_ops")
    module.TritonOps = make  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    chosen, note = _accelerator.triton_ops(torch.device("cpu"))
    assert type(chosen) is found
    assert text in note.text
    assert note.slower == slower


def test_notes_tell_what_the_operations_are(monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = iter((Speed(FP32, 1.0), Speed(BF16, 9.0), Speed(FP16, 9.0)))
    monkeypatch.setattr(
        "autoround.device.runtime.measure_matmul", lambda *args, **options: next(speeds)
    )
    monkeypatch.setattr(_accelerator, "find_spec", lambda name: None)
    runtime = AcceleratorRuntime("xpu", 0, module=FakeModule())
    operations, products = runtime.notes()
    assert operations.slower
    assert isinstance(runtime.ops, TorchOps)
    assert products.slower
    assert "made float32 first" in products.text


@pytest.mark.parametrize(
    ("kept", "reason"),
    [
        (torch.float32, ""),
        (torch.bfloat16, "products of bfloat16 are off by .*e-03"),
        (torch.float16, "products of bfloat16 are off by inf"),
        (None, "aten::mm.dtype"),
    ],
)
def test_16_bit_products_are_used_where_their_sums_are_float32(
    kept: torch.dtype | None, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for the device: the processor, whose torch has no such product."""

    def multiply(left: Tensor, right: Tensor) -> Tensor:
        assert kept is not None
        return (left.float() @ right.float()).to(kept).float()

    if kept is not None:
        monkeypatch.setattr(_accelerator, "torch_wide_product", multiply)
    runtime = AcceleratorRuntime("cuda", 0, module=FakeModule())
    runtime.device = torch.device("cpu")
    product = runtime.wide_product()
    assert (product is not None) == (not reason)
    if product is not None:
        x = torch.ones((3, 2), dtype=torch.bfloat16)
        assert product(x.t(), x).tolist() == [[3.0, 3.0], [3.0, 3.0]]
    note = runtime._found["wide"]
    assert note.slower == bool(reason)
    assert re.search(reason or "summed in float32", note.text)
