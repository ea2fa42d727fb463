"""The Triton kernels: on a GPU where there is one, else in Triton's interpreter."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from autoround.types import PER_CHANNEL, Scheme

from .test_kernels import check, drawn

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when a kernel is defined
pytest.importorskip("triton", reason="triton is not installed")

from autoround_backends.kernel_triton import TritonKernel  # noqa: E402


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("sym", [True, False])
def test_a_product_is_that_of_the_unpacked_weight(bits: int, sym: bool) -> None:
    sizes = (PER_CHANNEL, 32, 48)
    cases = itertools.product(sizes, (1, 3, 9, 20), (torch.float32, torch.float16))
    for size, rows, dtype in cases:
        layer = drawn((43, 160), Scheme(bits, size, sym), seed=bits)
        rng = torch.Generator().manual_seed(rows)
        x = torch.randn((rows, 160), generator=rng).to(dtype)
        check(TritonKernel(), layer, x, order=None, bias=torch.ones(43), device=DEVICE)


def test_reordered_inputs() -> None:
    layer = drawn((70, 96), Scheme(3, 32, False), seed=0)
    order = (torch.arange(96) // 32)[torch.randperm(96, generator=torch.Generator().manual_seed(1))]
    # The interpreter has no products of bfloat16.
    for rows, dtype in ((1, torch.bfloat16), (33, torch.float16)):
        x = torch.randn((rows, 96), generator=torch.Generator().manual_seed(2)).to(dtype)
        check(TritonKernel(), layer, x, order=order, bias=None, device=DEVICE)


def test_a_kernel_is_started_on_the_device_of_its_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    from autoround_backends import _triton_linear

    log: list[str] = []

    @contextmanager
    def device(chosen: torch.device) -> Iterator[None]:
        log.append(f"on {chosen}")
        yield
        log.append("left")

    class Started:
        def __getitem__(self, grid: tuple[int, int]) -> Any:
            return lambda *tensors, **constants: log.append(f"started {grid}")

    module = SimpleNamespace(device=device)
    monkeypatch.setattr(torch, "get_device_module", lambda device: module)
    second = SimpleNamespace(device=torch.device("cuda", 1))
    _triton_linear.launch(Started(), (2, 1), (second,), {})
    assert log == ["on cuda:1", "started (2, 1)", "left"]
