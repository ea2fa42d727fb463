"""One suite for every backend: the same numbers as the oracle, whoever computes them.

A backend of a third party is tested by the same door it is found through: install it,
and it takes part here. What cannot run on this machine is skipped with its own reason.
"""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoround.core import signsgd
from autoround.core.grid import Grid, min_max_grid, to_groups
from autoround.core.ops import TorchOps
from autoround.core.rounding import Rounding, dequantize
from autoround.core.rtn import Task
from autoround.core.tune import Problem, Samples, Schedule, tune
from autoround.types import PER_CHANNEL, PER_TENSOR
from autoround_backends import reference

GROUP = "autoround.backends"
OURS = ("cpu", "cuda", "xpu", "null")


def registered() -> dict[str, Any]:
    """Load every backend by entry point; from a bare checkout, the ones in it."""
    entries = entry_points(group=GROUP)
    if entries:
        return {entry.name: entry.load() for entry in entries}
    modules = {name: importlib.import_module(f"autoround_backends.{name}") for name in OURS}
    return {name: module.BACKEND for name, module in modules.items()}


BACKENDS = registered()

#: Shape, group size and bits: one row, in % group != 0, in < group, 3-D, more than a cache.
SCHEMES = [
    ((1, 64), 32, 4),
    ((12, 96), 32, 2),
    ((12, 96), 32, 3),
    ((5, 50), 16, 5),
    ((6, 40), 128, 6),
    ((2, 4, 48), 16, 7),
    ((8, 64), PER_CHANNEL, 8),
    ((8, 64), PER_TENSOR, 4),
    ((48, 2048), 128, 4),
]
KINDS = {"normal": 1.0, "tiny": 1e-8, "small": 1e-3, "huge": 1e4}


class Given:
    """One weight with its grid and a rounding in mid-tuning, on the CPU and on a device."""

    def __init__(
        self, shape: tuple[int, ...], group_size: int, bits: int, *, sym: bool, size: float
    ) -> None:
        rng = np.random.default_rng(bits)
        weight = rng.normal(size=shape) * size
        weight.reshape(-1, shape[-1])[0, : min(shape[-1], 16)] = 0.0
        self.groups = to_groups(torch.from_numpy(weight).float(), group_size)
        self.grid = min_max_grid(self.groups, bits=bits, sym=sym)
        clips = [rng.uniform(0.4, 1.1, size=self.grid.lo.shape) for _ in range(2)]
        value = rng.uniform(-0.6, 0.6, size=self.groups.shape)
        self.rounding = Rounding(*(torch.from_numpy(p).float() for p in (value, *clips)))
        self.upstream = torch.from_numpy(rng.normal(size=self.groups.shape)).float()

    def on(self, device: torch.device) -> tuple[Tensor, Rounding, Grid]:
        grid = self.grid._replace(lo=self.grid.lo.to(device), hi=self.grid.hi.to(device))
        rounding = Rounding(*(part.clone().to(device) for part in self.rounding))
        return self.groups.to(device), rounding, grid

    @property
    def oracle(self) -> tuple[np.ndarray, reference.Rounding, reference.Grid]:
        lo, hi = self.grid.lo.double().numpy(), self.grid.hi.double().numpy()
        return (
            self.groups.double().numpy(),
            reference.Rounding(*(part.double().numpy() for part in self.rounding)),
            reference.Grid(lo, hi, self.grid.bits, self.grid.sym),
        )

    @property
    def certain(self) -> np.ndarray:
        weight, rounding, grid = self.oracle
        marks = reference.certain(weight, rounding, grid=grid)
        assert marks.mean() > 0.8, "nearly everything must be comparable"
        return marks

    @property
    def certain_groups(self) -> np.ndarray:
        _, rounding, grid = self.oracle
        return reference.certain_groups(grid, rounding.clip_lo, rounding.clip_hi)


#: Those that compute here. null computes shapes only; see test_null.py.
USABLE = [name for name in sorted(BACKENDS) if name != "null" and BACKENDS[name].probe().available]


@pytest.fixture(params=USABLE)
def runtime(request: pytest.FixtureRequest) -> Any:
    """An opened device of every backend that can compute here."""
    return BACKENDS[request.param].open(None)


@pytest.fixture(params=SCHEMES, ids=lambda s: f"{'x'.join(map(str, s[0]))}-g{s[1]}-{s[2]}bit")
def scheme(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=[True, False], ids=["sym", "asym"])
def sym(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=sorted(KINDS))
def given(request: pytest.FixtureRequest, scheme: Any, sym: bool) -> Given:
    return Given(*scheme, sym=sym, size=KINDS[request.param])


@pytest.mark.parametrize("name", sorted(BACKENDS))
def test_a_backend_is_held_to_this_suite_or_says_why_not(name: str) -> None:
    backend = BACKENDS[name]
    assert backend.name == name
    availability = backend.probe()
    assert availability.reason
    if not availability.available:
        pytest.skip(f"{name}: {availability.reason}")
    assert availability.devices
    assert name == "null" or name in USABLE


def test_a_runtime_says_what_it_is(runtime: Any) -> None:
    assert runtime.name in BACKENDS
    assert isinstance(runtime.device, torch.device)
    speeds = runtime.speeds()
    assert all(speed.flops > 0 for speed in speeds)
    assert torch.float32 in {speed.dtype for speed in speeds}
    memory = runtime.memory()
    assert 0 < memory.free <= memory.total
    runtime.synchronize()
    runtime.release()
    assert runtime.peak_bytes() >= 0


def test_fake_quantize_is_that_of_the_oracle(runtime: Any, given: Given) -> None:
    groups, rounding, grid = given.on(runtime.device)
    result = runtime.ops.fake_quantize(groups, rounding, grid=grid, dtype=torch.float32)
    assert result.device.type == runtime.device.type
    ours = result.cpu().numpy()
    weight, exact, exact_grid = given.oracle
    expected = reference.fake_quantize(weight, exact, grid=exact_grid)
    np.testing.assert_allclose(ours[given.certain], expected[given.certain], rtol=1e-6)
    scale, _ = reference.scale_and_zero(exact_grid, exact.clip_lo, exact.clip_hi)
    near = np.abs(ours - expected) <= np.abs(scale) * 1.001
    assert near[np.broadcast_to(given.certain_groups, near.shape)].all()


def test_gradients_are_those_of_the_oracle(runtime: Any, given: Given) -> None:
    groups, rounding, grid = given.on(runtime.device)
    parts = [part.requires_grad_() for part in rounding]
    result = runtime.ops.fake_quantize(groups, Rounding(*parts), grid=grid, dtype=torch.float32)
    upstream = given.upstream.to(runtime.device)
    found = [g.cpu().numpy() for g in torch.autograd.grad(result, parts, upstream)]
    weight, exact, exact_grid = given.oracle
    wanted = reference.gradients(weight, exact, grid=exact_grid, upstream=given.upstream.numpy())
    certain = given.certain
    np.testing.assert_allclose(found[0][certain], wanted.value[certain], rtol=1e-5, atol=1e-12)
    whole = certain.all(-1, keepdims=True)
    size = (exact_grid.hi - exact_grid.lo) * np.abs(given.upstream.numpy()).sum(-1, keepdims=True)
    for ours, theirs in zip(found[1:], wanted[1:], strict=True):
        assert (np.abs(ours - theirs) <= 2e-6 * size + 1e-12)[whole].all()


def test_quantize_is_that_of_the_oracle(runtime: Any, given: Given) -> None:
    groups, rounding, grid = given.on(runtime.device)
    results = [part.cpu().numpy() for part in runtime.ops.quantize(groups, rounding, grid=grid)]
    weight, exact, exact_grid = given.oracle
    expected: tuple[NDArray[Any], ...] = reference.quantize(weight, exact, grid=exact_grid)
    marks = (given.certain, given.certain_groups, given.certain_groups)
    for ours, theirs, where in zip(results, expected, marks, strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours[where], theirs[where])
    assert int(results[0].max()) < 2**grid.bits
    assert int(results[2].max()) < 2**grid.bits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_codes_read_back_as_the_forward_made_them(
    runtime: Any, scheme: Any, sym: bool, dtype: torch.dtype
) -> None:
    groups, rounding, grid = Given(*scheme, sym=sym, size=1.0).on(runtime.device)
    forward = runtime.ops.fake_quantize(groups, rounding, grid=grid, dtype=dtype)
    assert forward.dtype == dtype
    codes, scale, zero = runtime.ops.quantize(groups, rounding, grid=grid)
    assert torch.equal(dequantize(codes, scale, zero).to(dtype), forward)


def test_offsets_alone_can_be_differentiated(runtime: Any, scheme: Any, sym: bool) -> None:
    given = Given(*scheme, sym=sym, size=1.0)
    groups, rounding, grid = given.on(runtime.device)
    value = rounding.value.requires_grad_()
    result = runtime.ops.fake_quantize(groups, rounding, grid=grid, dtype=torch.float32)
    (found,) = torch.autograd.grad(result, [value], given.upstream.to(runtime.device))
    weight, exact, exact_grid = given.oracle
    wanted = reference.gradients(weight, exact, grid=exact_grid, upstream=given.upstream.numpy())
    certain = given.certain
    np.testing.assert_allclose(found.cpu().numpy()[certain], wanted.value[certain], rtol=1e-5)


def test_sign_steps_are_those_of_the_oracle(runtime: Any) -> None:
    rng = np.random.default_rng(0)
    shapes, steps = [(33, 5, 17), (33, 5, 1), (1,)], 6
    start = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    params = [torch.from_numpy(p.copy()).to(runtime.device) for p in start]
    places = [param.data_ptr() for param in params]
    expected = [p.astype(np.float64) for p in start]
    state = signsgd.init(0.1, steps)
    for step in range(steps):
        grads = [rng.normal(size=shape) * (rng.random(shape) > 0.2) for shape in shapes]
        expected = reference.sign_step(expected, grads, rate=0.1, step=step, steps=steps)
        tensors = [torch.from_numpy(grad).float().to(runtime.device) for grad in grads]
        state = runtime.ops.sign_step(params, tensors, state=state)
        assert state == (0.1, step + 1, steps)
    assert [param.data_ptr() for param in params] == places
    for ours, theirs in zip(params, expected, strict=True):
        np.testing.assert_allclose(ours.cpu().numpy(), theirs, atol=1e-6)


def test_no_sign_step_of_nothing(runtime: Any) -> None:
    assert runtime.ops.sign_step([], [], state=signsgd.init(0.1, 2)).step == 1


@pytest.mark.parametrize("bits", [2, 4])
def test_twenty_steps_end_where_the_plain_ops_end(runtime: Any, sym: bool, bits: int) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(48, 64, generator=generator) / 8
    inputs = torch.randn(16, 8, 12, generator=generator) @ torch.randn(12, 64, generator=generator)
    samples = Samples(inputs, inputs @ weight.T, None)
    times = Schedule(
        iters=20,
        rate=0.05,
        clip_rate=0.05,
        batch_size=4,
        accumulate=1,
        checks=1,
        check_samples=8,
        clip_ceiling=1.0,
        seed=0,
    )
    codes, tuned = [], []
    for device, ops in ((torch.device("cpu"), TorchOps()), (runtime.device, runtime.ops)):
        groups = to_groups(weight, 32).to(device)
        grid = min_max_grid(groups, bits=bits, sym=sym)
        task = Task(groups, grid, tuple(weight.shape))
        problem = Problem(lambda weights, x, rows: x @ weights["w"].T, {"w": task}, samples)
        tuned.append(tune(problem, times, ops=ops, dtype=torch.float32))
        rounding = tuned[-1].roundings["w"]
        codes.append(ops.quantize(groups, rounding, grid=grid)[0].cpu())
    start = TorchOps().quantize(
        to_groups(weight, 32),
        Rounding(torch.zeros_like(to_groups(weight, 32)), *[torch.ones(48, 2, 1)] * 2),
        grid=min_max_grid(to_groups(weight, 32), bits=bits, sym=sym),
    )[0]
    assert (codes[0] != start).any(), "tuning must have moved something to compare"
    assert (codes[0] == codes[1]).double().mean() >= 0.99
    assert tuned[1].loss_after == pytest.approx(tuned[0].loss_after, rel=0.02)
    assert tuned[1].loss_after < tuned[1].loss_before
