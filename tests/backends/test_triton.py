"""The Triton kernels: on a GPU where there is one, else in Triton's interpreter."""

from __future__ import annotations

import itertools
import os

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
