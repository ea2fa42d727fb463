from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from autoround.core.gptq import (
    COLUMNS,
    DAMPING,
    FLOOR,
    InverseCholesky,
    gptq_offsets,
    inverse_cholesky,
    inverse_choleskys,
    stacked_gptq_offsets,
)
from autoround.core.grids.gguf_types import nested_of
from autoround.core.grids.grid import from_groups, quant_params, to_groups
from autoround.core.grids.levels import integer_levels
from autoround.core.ops import TorchOps
from autoround.core.rtn import Target, round_to_nearest
from autoround.core.search import search_grid
from autoround.core.search_nested import search_nested
from autoround.types import PER_CHANNEL, PER_TENSOR, Scheme
from autoround_backends import reference_gptq as oracle

from ._cases import few


def inputs_of(columns: int, seed: int, *, tokens: int = 256) -> Tensor:
    """Activations whose channels move together, and some of which are far larger."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(tokens, 4)) @ rng.normal(size=(4, columns))
    inputs = mixed + 0.5 * rng.normal(size=(tokens, columns))
    return torch.from_numpy(inputs * np.exp(rng.normal(size=columns))).float()


def task_of(rows: int, columns: int, seed: int, *, size: int, bits: int = 4, sym: bool) -> Target:
    weight = torch.from_numpy(np.random.default_rng(seed + 1).normal(size=(rows, columns))).float()
    groups = to_groups(weight, size)
    return Target(groups, search_grid(groups, None, integer_levels(bits, sym=sym)), (rows, columns))


def offsets_of(task: Target, inputs: Tensor, *, block_columns: int = COLUMNS) -> Tensor:
    factor = inverse_cholesky(inputs.t() @ inputs)
    assert factor is not None
    return gptq_offsets(task, factor, block_columns=block_columns)


def output_error(task: Target, inputs: Tensor, offsets: Tensor | None) -> float:
    """Mean squared error of a layer's output in float64."""
    rounding = round_to_nearest({"x": task._replace(offsets=offsets)})["x"]
    rounded = TorchOps().fake_quantize(task.groups, rounding, grid=task.grid, dtype=torch.float32)
    change = from_groups(rounded - task.groups, task.shape).double()
    return float((inputs.double() @ change.t()).square().mean())


def everywhere(values: Tensor, task: Target) -> np.ndarray:
    return from_groups(values.expand(task.groups.shape), task.shape).double().numpy()


@few
@given(
    seed=st.integers(0, 1000),
    columns=st.sampled_from([8, 30, 70, 96]),
    size=st.sampled_from([PER_CHANNEL, PER_TENSOR, 8, 32]),
    bits=st.sampled_from([2, 3, 4]),
    sym=st.booleans(),
)
def test_offsets_are_those_of_the_textbook(
    seed: int, columns: int, size: int, bits: int, sym: bool
) -> None:
    task = task_of(5, columns, seed, size=size, bits=bits, sym=sym)
    inputs = inputs_of(columns, seed)
    hessian = inputs.t() @ inputs
    one = torch.ones_like(task.grid.lo)
    scale, zero, _ = quant_params(task.grid, one, one)
    weight = from_groups(task.groups, task.shape).double().numpy()
    steps = everywhere(scale, task)
    wanted = oracle.gptq_positions(
        weight,
        steps,
        everywhere(-zero, task),
        everywhere(2**bits - 1 - zero, task),
        oracle.damped(hessian.numpy(), damping=DAMPING, floor=FLOOR),
        oracle.order_of(hessian.numpy(), floor=FLOOR),
    )
    found = from_groups(offsets_of(task, inputs), task.shape).double().numpy()
    # A row goes another way from where float32 rounds a level otherwise than float64 does.
    apart = np.abs(found - (wanted - weight) / steps).max(1)
    assert (apart < 2e-3).mean() >= 0.6
    assert found.shape == (5, columns)


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("sym", [True, False])
def test_outputs_are_much_closer_than_those_of_nearest_levels(bits: int, sym: bool) -> None:
    task = task_of(64, 96, 3, size=32, bits=bits, sym=sym)
    inputs = inputs_of(96, 3)
    offsets = offsets_of(task, inputs)
    assert output_error(task, inputs, offsets) < 0.6 * output_error(task, inputs, None)


def test_blocks_of_columns_change_nothing() -> None:
    task, inputs = task_of(8, 96, 5, size=32, sym=True), inputs_of(96, 5)
    each = [offsets_of(task, inputs, block_columns=columns) for columns in (1, 7, 96)]
    for other in each[1:]:
        assert (other - each[0]).abs().amax((1, 2)).le(1e-3).float().mean() >= 0.7


def test_channels_that_do_not_move_together_stay_at_the_nearest_level() -> None:
    task = task_of(6, 40, 7, size=8, sym=False)
    inputs = torch.diag(torch.arange(1.0, 41.0))
    assert float(offsets_of(task, inputs).abs().max()) < 1e-5


def test_padding_gets_no_offset() -> None:
    task, inputs = task_of(4, 30, 2, size=8, sym=True), inputs_of(30, 2)
    assert bool((offsets_of(task, inputs)[:, -1, -2:] == 0).all())


@pytest.mark.parametrize("kind", ["q2_k", "q4_k"])
def test_nested_grids_are_compensated_as_well(kind: str) -> None:
    nested = nested_of(
        Scheme(2 if kind == "q2_k" else 4, 16 if kind == "q2_k" else 32, False, kind)
    )
    assert nested is not None
    weight = torch.from_numpy(np.random.default_rng(0).normal(size=(32, 256))).float()
    size = 16 if kind == "q2_k" else 32
    groups = to_groups(weight, size)
    levels = integer_levels(2 if kind == "q2_k" else 4, sym=False)
    grid = search_nested(groups, None, levels, scales=nested)
    task, inputs = Target(groups, grid, (32, 256)), inputs_of(256, 4)
    assert output_error(task, inputs, offsets_of(task, inputs)) < 0.7 * output_error(
        task, inputs, None
    )


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_inputs_that_say_nothing_give_no_factor(value: float) -> None:
    assert inverse_cholesky(torch.full((4, 4), value)) is None


def test_several_factors_are_those_of_each_whether_queued_or_not() -> None:
    inputs = [inputs_of(48, 9), inputs_of(32, 4)]
    inputs[0][:, 3] = 0.0
    hessians = [x.t() @ x for x in inputs]
    # One that holds nothing, one of no finite numbers, one that is no sum of squares.
    negative = torch.full((4, 4), 5.0).fill_diagonal_(1.0)
    for value in (0.0, float("nan"), float("inf")):
        hessians.append(torch.full((4, 4), value))
    hessians.append(negative)
    for queued in (False, True):
        factors = inverse_choleskys(hessians, queued=queued)
        assert [factor is not None for factor in factors] == [True, True, *[False] * 4]
        for factor, hessian in zip(factors[:2], hessians, strict=False):
            exact = inverse_cholesky(hessian.double())
            assert factor is not None
            assert exact is not None
            assert torch.equal(factor.order, exact.order)
            # Rows have the sizes of their channels, many digits apart.
            apart = (factor.upper - exact.upper).abs() / exact.upper.diagonal()[:, None]
            assert float(apart.max()) < 1e-4
            assert bool((factor.upper.tril(-1) == 0).all())
    assert inverse_choleskys([], queued=True) == []


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_rows_of_a_stack_are_rounded_as_each_would_be_alone(bits: int) -> None:
    """Groups may be of other sizes, padded ones too; equal bit for bit for whole panels of rows."""
    inputs = inputs_of(200, 11)
    factor = inverse_cholesky(inputs.t() @ inputs)
    assert factor is not None
    shapes = ((64, 32), (192, 8), (64, 16), (128, PER_CHANNEL), (64, PER_TENSOR), (64, 32))
    tasks = [
        task_of(rows, 200, seed, size=size, bits=bits, sym=True)
        for seed, (rows, size) in enumerate(shapes)
    ]
    stacked = stacked_gptq_offsets(tasks, factor)
    codes = []
    for offsets in (stacked, [gptq_offsets(task, factor) for task in tasks]):
        pairs = enumerate(zip(tasks, offsets, strict=True))
        moved = {str(n): task._replace(offsets=part) for n, (task, part) in pairs}
        codes.append(
            TorchOps().quantize_all(
                [task.groups for task in tasks],
                list(round_to_nearest(moved).values()),
                grids=[task.grid for task in tasks],
            )
        )
    for one, other, task, offsets in zip(*codes, tasks, stacked, strict=True):
        assert offsets.shape == task.groups.shape
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_dead_and_dominant_channels_are_survived() -> None:
    inputs = inputs_of(48, 9)
    inputs[:, 3] = 0.0
    inputs[:, 5] *= 1e4
    factor = inverse_cholesky(inputs.t() @ inputs)
    assert isinstance(factor, InverseCholesky)
    assert bool(factor.upper.isfinite().all())
    assert int(factor.order[0]) == 5
    task = task_of(8, 48, 9, size=16, sym=True)
    offsets = gptq_offsets(task, factor)
    assert output_error(task, inputs, offsets) <= output_error(task, inputs, None)
