"""Fake-quantize, its gradient, hard quantize and the sign step against the float64 oracle."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from autoround.core import signsgd
from autoround.core.rounding import Rounding, dequantize
from autoround_backends import reference
from autoround_backends.conformance.examples import SHAPES, SIZES, Example, Shape
from autoround_backends.conformance.gptq_block import gptq_block_cases
from autoround_backends.conformance.scale_search import scale_search_cases
from autoround_backends.conformance.subject import Case, Subject, require


class _Kind(NamedTuple):
    shape: Shape
    sym: bool
    size: float


def operation_cases() -> Iterator[Case]:
    """Yield the cases of this file."""
    for shape in SHAPES:
        for sym in (True, False):
            for size, factor in SIZES.items():
                kind = _Kind(shape, sym, factor)
                about = f"{shape}-{'sym' if sym else 'asym'}-{size}"
                each: Sequence[tuple[str, Callable[[_Kind, Subject], None]]] = (
                    ("fake-quantize is that", _fake_quantize),
                    ("gradients are those", _gradients),
                    ("quantize is that", _quantize),
                )
                for name, check in each:
                    yield Case(f"{name} of the oracle [{about}]", partial(check, kind))
            kind, about = _Kind(shape, sym, 1.0), f"{shape}-{'sym' if sym else 'asym'}"
            for dtype in (torch.float32, torch.bfloat16, torch.float16):
                name = f"codes read back as the forward made them [{about}-{_named(dtype)}]"
                yield Case(name, partial(_back, kind, dtype))
            yield Case(f"offsets alone have gradients [{about}]", partial(_offsets, kind))
    yield Case("a block at once is each by itself", _at_once)
    yield Case("sign steps are those of the oracle", _sign_steps)
    yield Case("sign steps by a rate of the device are those of the oracle", _sign_steps_by)
    yield Case("there is a sign step of nothing", _no_step)
    yield from gptq_block_cases()
    yield from scale_search_cases()


def _example(kind: _Kind) -> Example:
    return Example(kind.shape, sym=kind.sym, size=kind.size)


def _fake_quantize(kind: _Kind, subject: Subject) -> None:
    example, runtime = _example(kind), subject.runtime
    groups, rounding, grid = example.on(runtime.device)
    result = runtime.ops.fake_quantize(groups, rounding, grid=grid, dtype=torch.float32)
    require(result.device.type == runtime.device.type, f"the result is on {result.device}")
    ours = result.cpu().numpy()
    weight, exact, exact_grid = example.oracle
    expected = reference.fake_quantize(weight, exact, grid=exact_grid)
    certain = example.certain
    np.testing.assert_allclose(ours[certain], expected[certain], rtol=1e-6)
    scale, _ = reference.scale_and_zero(exact_grid, exact.min_scale, exact.max_scale)
    # Next to a tie float32 may take the other of two neighbours, and nothing beyond.
    near = np.abs(ours - expected) <= np.abs(scale) * 1.001
    where = np.broadcast_to(example.certain_groups, near.shape)
    require(bool(near[where].all()), "a weight is more than one level away")


def _gradients(kind: _Kind, subject: Subject) -> None:
    example, runtime = _example(kind), subject.runtime
    groups, rounding, grid = example.on(runtime.device)
    parts = [part.requires_grad_() for part in rounding]
    result = runtime.ops.fake_quantize(groups, Rounding(*parts), grid=grid, dtype=torch.float32)
    upstream = example.upstream.to(runtime.device)
    grads = [g.cpu().numpy() for g in torch.autograd.grad(result, parts, upstream)]
    weight, exact, exact_grid = example.oracle
    wanted = reference.gradients(weight, exact, grid=exact_grid, upstream=example.upstream.numpy())
    certain = example.certain
    np.testing.assert_allclose(grads[0][certain], wanted.offset[certain], rtol=1e-5, atol=1e-12)
    # Sums over a group compare only where each of its levels is certain.
    whole = certain.all(-1, keepdims=True)
    size = (exact_grid.hi - exact_grid.lo) * np.abs(example.upstream.numpy()).sum(-1, keepdims=True)
    for ours, theirs in zip(grads[1:], wanted[1:], strict=True):
        near = np.abs(ours - theirs) <= 2e-6 * size + 1e-12
        require(bool(near[whole].all()), "gradients of min_scale or max_scale differ")


def _quantize(kind: _Kind, subject: Subject) -> None:
    example, runtime = _example(kind), subject.runtime
    groups, rounding, grid = example.on(runtime.device)
    results = [part.cpu().numpy() for part in runtime.ops.quantize(groups, rounding, grid=grid)]
    weight, exact, exact_grid = example.oracle
    expected: tuple[NDArray[Any], ...] = reference.quantize(weight, exact, grid=exact_grid)
    marks = (example.certain, example.certain_groups, example.certain_groups)
    for ours, theirs, where in zip(results, expected, marks, strict=True):
        require(ours.dtype == theirs.dtype, f"{ours.dtype} in place of {theirs.dtype}")
        np.testing.assert_array_equal(ours[where], theirs[where])
    for part in (results[0], results[2]):
        require(int(part.max()) < grid.levels.count, "a code or a zero point beyond its bits")


def _back(kind: _Kind, dtype: torch.dtype, subject: Subject) -> None:
    runtime = subject.runtime
    groups, rounding, grid = _example(kind).on(runtime.device)
    codes, scale, zero = runtime.ops.quantize(groups, rounding, grid=grid)
    forward = runtime.ops.fake_quantize(groups, rounding, grid=grid, dtype=dtype)
    require(forward.dtype == dtype, f"{forward.dtype} in place of {dtype}")
    same = torch.equal(dequantize(codes, scale, zero).to(dtype), forward)
    require(same, "codes are other weights than those of the forward")


def _named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _offsets(kind: _Kind, subject: Subject) -> None:
    example, runtime = _example(kind), subject.runtime
    groups, rounding, grid = example.on(runtime.device)
    offset = rounding.offset.requires_grad_()
    result = runtime.ops.fake_quantize(groups, rounding, grid=grid, dtype=torch.float32)
    (grad,) = torch.autograd.grad(result, [offset], example.upstream.to(runtime.device))
    weight, exact, exact_grid = example.oracle
    wanted = reference.gradients(weight, exact, grid=exact_grid, upstream=example.upstream.numpy())
    certain = example.certain
    np.testing.assert_allclose(grad.cpu().numpy()[certain], wanted.offset[certain], rtol=1e-5)


def _at_once(subject: Subject) -> None:
    """Compare all tensors of a mixed block with each of them alone, bit for bit."""
    ops, device = subject.runtime.ops, subject.runtime.device
    mixed = [Example(s, sym=sym, size=1.0) for s in SHAPES[:-1] for sym in (True, False)]
    weights, roundings, grids = map(list, zip(*(g.on(device) for g in mixed), strict=True))
    parts = [[part.requires_grad_() for part in rounding] for rounding in roundings]
    flat = [part for each in parts for part in each]
    outs = ops.fake_quantize_all(weights, roundings, grids=grids, dtype=torch.bfloat16)
    # bfloat16: its gradients take a path of their own in kernels.
    ups = [example.upstream.to(device, torch.bfloat16) for example in mixed]
    grads = torch.autograd.grad(outs, flat, ups)
    codes = ops.quantize_all(weights, roundings, grids=grids)
    for number, (weight, rounding, grid) in enumerate(zip(weights, roundings, grids, strict=True)):
        single = ops.fake_quantize(weight, rounding, grid=grid, dtype=torch.bfloat16)
        require(torch.equal(single, outs[number]), f"tensor {number} is rounded another way")
        alone = torch.autograd.grad(single, parts[number], ups[number])
        together = grads[3 * number : 3 * number + 3]
        for first, second in zip(alone, together, strict=True):
            require(torch.allclose(first, second, rtol=1e-5, atol=1e-9), "gradients differ")
        alike = map(torch.equal, ops.quantize(weight, rounding, grid=grid), codes[number])
        require(all(alike), f"codes of tensor {number} differ")


def _sign_steps(subject: Subject) -> None:
    runtime, rng = subject.runtime, np.random.default_rng(0)
    shapes, steps = [(33, 5, 17), (33, 5, 1), (1,)], 6
    start = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    params = [torch.from_numpy(p.copy()).to(runtime.device) for p in start]
    # Recorded steps read parameters at their old addresses.
    places = [param.data_ptr() for param in params]
    expected = [p.astype(np.float64) for p in start]
    state = signsgd.init(0.1, steps)
    for step in range(steps):
        grads = [rng.normal(size=shape) * (rng.random(shape) > 0.2) for shape in shapes]
        expected = reference.sign_step(expected, grads, rate=0.1, step=step, steps=steps)
        tensors = [torch.from_numpy(grad).float().to(runtime.device) for grad in grads]
        state = runtime.ops.sign_step(params, tensors, state=state)
        require(state == (0.1, step + 1, steps), f"the state is {state}")
    require([param.data_ptr() for param in params] == places, "not in place")
    for ours, theirs in zip(params, expected, strict=True):
        np.testing.assert_allclose(ours.cpu().numpy(), theirs, atol=1e-6)


def _sign_steps_by(subject: Subject) -> None:
    runtime, rng = subject.runtime, np.random.default_rng(1)
    shapes, steps = [(33, 5, 17), (33, 5, 1), (1,)], 4
    expected = [rng.normal(size=shape).astype(np.float32).astype(np.float64) for shape in shapes]
    params = [torch.from_numpy(p.astype(np.float32)).to(runtime.device) for p in expected]
    places = [param.data_ptr() for param in params]
    rates = torch.tensor([signsgd.linear_lr(0.1, step, steps=steps) for step in range(steps)] + [0])
    rates = rates.to(runtime.device)
    for step in range(steps + 1):
        grads = [rng.normal(size=shape) * (rng.random(shape) > 0.2) for shape in shapes]
        tensors = [torch.from_numpy(grad).float().to(runtime.device) for grad in grads]
        before = [param.clone() for param in params]
        runtime.ops.sign_step_by(params, tensors, rates[step])
        if step < steps:
            expected = reference.sign_step(expected, grads, rate=0.1, step=step, steps=steps)
        else:
            stay = map(torch.equal, params, before)
            require(all(stay), "parameters move at a rate of zero")
    require([param.data_ptr() for param in params] == places, "not in place")
    for ours, theirs in zip(params, expected, strict=True):
        np.testing.assert_allclose(ours.cpu().numpy(), theirs, atol=1e-6)
    runtime.ops.sign_step_by([], [], rates[0])


def _no_step(subject: Subject) -> None:
    state = subject.runtime.ops.sign_step([], [], state=signsgd.init(0.1, 2))
    require(state.step == 1, "it is not counted")
