"""Measure how fast this machine multiplies the matrices of a model's block.

Every step of tuning is three products a layer: the output, the gradient of the input and that of
the weight. They are timed alone, for each layer's own shape, in float32 and bfloat16; the
ceiling is all their operations over the sum of their least times.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import worker


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Return operations a second in units of 1e9, for each dtype, and the faster one."""
    import torch

    device = torch.device("cpu" if job["device"] == "auto" else job["device"])
    found = {
        name: round(speed(job["matrices"], job["tokens"], (getattr(torch, name), device)) / 1e9, 1)
        for name in ("float32", "bfloat16")
    }
    return {**found, "fastest": max(found, key=lambda name: found[name])}


def speed(matrices: list[list[int]], tokens: int, kind: tuple[Any, Any]) -> float:
    """Return operations a second over the three products of all layers."""
    import torch

    dtype, device = kind
    operations = seconds = 0.0
    for out, inner in matrices:
        hidden = torch.randn(tokens, inner, device=device).to(dtype)
        weight = torch.randn(out, inner, device=device).to(dtype)
        grad = torch.randn(tokens, out, device=device).to(dtype)
        for product in (
            lambda h=hidden, w=weight: torch.nn.functional.linear(h, w),
            lambda g=grad, w=weight: g @ w,
            lambda g=grad, h=hidden: g.t() @ h,
        ):
            seconds += least(product, device)
            operations += 2.0 * tokens * out * inner
    return operations / seconds


def least(product: Callable[[], Any], device: Any, *, budget: float = 0.25) -> float:
    """Return the least seconds of a call in a few tries within a time budget."""
    import torch

    def once() -> float:
        started = time.perf_counter()
        product()
        if device.type != "cpu":
            torch.get_device_module(device).synchronize(device)
        return time.perf_counter() - started

    once()
    ends = time.perf_counter() + budget
    best = once()
    while time.perf_counter() < ends:
        best = min(best, once())
    return best


if __name__ == "__main__":
    worker.run(work)
