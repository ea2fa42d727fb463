from __future__ import annotations

import pytest
import torch

from autoround.device.protocol import Speed, measure_matmul, sort_speeds

FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16


@pytest.mark.parametrize(
    ("speeds", "order"),
    [
        ({FP32: 100, BF16: 119}, [FP32, BF16]),
        ({FP32: 100, BF16: 120}, [BF16, FP32]),
        ({FP32: 100, BF16: 10}, [FP32, BF16]),
        ({BF16: 100, FP32: 100}, [FP32, BF16]),
        ({FP32: 100, BF16: 400, FP16: 500}, [FP16, BF16, FP32]),
        ({FP32: 100, BF16: 110, FP16: 500}, [FP16, FP32, BF16]),
        ({FP32: 100, BF16: 50, FP16: 110}, [FP32, FP16, BF16]),
        ({FP32: 100}, [FP32]),
    ],
)
def test_float32_comes_first_unless_another_is_worth_it(
    speeds: dict[torch.dtype, float], order: list[torch.dtype]
) -> None:
    given = [Speed(dtype, flops) for dtype, flops in speeds.items()]
    result = sort_speeds(given)
    assert [speed.dtype for speed in result] == order
    assert set(result) == set(given)


@pytest.mark.parametrize("dtype", [FP32, BF16])
def test_matmul_speed_is_measured(dtype: torch.dtype) -> None:
    calls = []
    speed = measure_matmul(
        torch.device("cpu"), dtype, synchronize=lambda: calls.append(0), size=64, seconds=0.001
    )
    assert speed.dtype == dtype
    assert 1e6 < speed.flops < 1e15
    # Once to warm up, and after each of two turns or more.
    assert len(calls) >= 3


def test_the_best_turn_counts() -> None:
    # Turns of 4, 1 and 2 seconds; one start and one end each.
    times = iter([0.0, 4.0, 10.0, 11.0, 20.0, 22.0])
    speed = measure_matmul(
        torch.device("cpu"),
        FP32,
        synchronize=lambda: None,
        size=8,
        seconds=6.5,
        clock=lambda: next(times),
    )
    assert speed.flops == 2 * 8**3
