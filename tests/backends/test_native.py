"""The C kernels of the CPU: the numbers of plain torch, and runs without them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from autoround.core import signsgd
from autoround.core.grid import Grid, Nested, min_max_grid
from autoround.core.ops import TorchOps
from autoround.core.rounding import Rounding, initial_rounding
from autoround_backends import _native, cpu
from autoround_backends._cpu_ops import CpuOps

NESTED = {True: Nested(16, -32, 31), False: Nested(8, 0, 63)}
needs_compiler = pytest.mark.skipif(_native.compiler() is None, reason="no C compiler here")


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    _native.load.cache_clear()
    yield
    _native.load.cache_clear()


@pytest.fixture(scope="module")
def fused(tmp_path_factory: pytest.TempPathFactory) -> CpuOps:
    library = _native.load(tmp_path_factory.mktemp("kernels")).library
    assert library is not None
    return CpuOps(library)


def drawn(seed: int, shape: tuple[int, int, int], size: float) -> tuple[Tensor, Rounding, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    weight = torch.randn(shape, generator=rng) * size
    start = initial_rounding(weight)
    value = torch.rand(shape, generator=rng) * 1.6 - 0.8
    clips = [torch.rand(start.clip_lo.shape, generator=rng) * 0.7 + 0.4 for _ in range(2)]
    upstream = torch.randn(shape, generator=rng)
    upstream[..., ::5] = 0.0
    return weight, Rounding(value, *clips), upstream


def run(
    ops: Any, given_: tuple[Tensor, Rounding, Tensor], grid: Grid, dtype: torch.dtype
) -> tuple[Tensor, ...]:
    weight, rounding, upstream = given_
    parts = [part.clone().requires_grad_() for part in rounding]
    out = ops.fake_quantize(weight, Rounding(*parts), grid=grid, dtype=dtype)
    return (out.detach(), *torch.autograd.grad(out, parts, upstream.to(dtype)))


@needs_compiler
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 3), st.integers(1, 70)),
    bits=st.integers(2, 8),
    sym=st.booleans(),
    nested=st.booleans(),
    size=st.sampled_from([1e-8, 1e-3, 1.0, 1e4]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_levels_and_offset_gradients_equal_those_of_torch(
    fused: CpuOps,
    seed: int,
    shape: tuple[int, int, int],
    bits: int,
    sym: bool,
    nested: bool,
    size: float,
    dtype: torch.dtype,
) -> None:
    kind = NESTED[sym] if nested else None
    if kind is not None:
        shape = (shape[0], kind.groups, shape[2])
    given_ = drawn(seed, shape, size)
    grid = min_max_grid(given_[0], bits=bits, sym=sym)._replace(nested=kind)
    ours = run(fused, given_, grid, dtype)
    theirs = run(TorchOps(), given_, grid, dtype)
    assert torch.equal(ours[0], theirs[0])
    assert torch.equal(ours[1], theirs[1])
    for one, other in zip(ours[2:], theirs[2:], strict=True):
        # Sums of a group, added up in another order.
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


@needs_compiler
def test_sign_steps_equal_those_of_torch(fused: CpuOps) -> None:
    rng = torch.Generator().manual_seed(0)
    params = [torch.randn(7, 33, generator=rng), torch.randn(5, generator=rng)]
    grads = [torch.randn(p.shape, generator=rng) for p in params]
    grads[0][:, ::3] = 0.0
    wanted, got = [p.clone() for p in params], [p.clone() for p in params]
    state = signsgd.init(0.3, 10)
    after = TorchOps().sign_step(wanted, [g.clone() for g in grads], state=state)
    assert fused.sign_step(got, [g.clone() for g in grads], state=state) == after
    assert all(map(torch.equal, got, wanted))


@needs_compiler
def test_what_is_not_laid_out_for_the_kernels_goes_through_torch(fused: CpuOps) -> None:
    weight, rounding, upstream = drawn(1, (6, 2, 16), 1.0)
    turned = weight.transpose(0, 2).contiguous().transpose(0, 2)
    grid = min_max_grid(weight, bits=4, sym=True)
    for dtype in (torch.float32, torch.float16):
        ours = run(fused, (turned, rounding, upstream), grid, dtype)
        theirs = run(TorchOps(), (weight, rounding, upstream), grid, dtype)
        assert torch.equal(ours[0], theirs[0])
    param = torch.ones(4, 3).t()
    fused.sign_step([param], [torch.ones(3, 4)], state=signsgd.init(0.5, 2))
    assert torch.equal(param, torch.full((3, 4), 0.5))


@needs_compiler
def test_a_build_is_kept(tmp_path: Path) -> None:
    assert _native.load(tmp_path).library is not None
    (built,) = tmp_path.iterdir()
    stamp = built.stat().st_mtime_ns
    _native.load.cache_clear()
    assert _native.load(tmp_path).library is not None
    assert [p.stat().st_mtime_ns for p in tmp_path.iterdir()] == [stamp]


def test_without_a_compiler_plain_torch_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "no C compiler" in _native.load().reason
    assert type(cpu.BACKEND.open(None).ops) is TorchOps


def test_a_compiler_that_fails_is_told_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\necho 'no such target' >&2\nexit 1\n", encoding="utf-8")
    broken.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(broken))
    found = _native.load(tmp_path / "cache")
    assert found.library is None
    assert "no such target" in found.reason
    assert list((tmp_path / "cache").iterdir()) == []


@needs_compiler
def test_without_a_place_to_keep_a_build_plain_torch_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    (tmp_path / "file").write_text("", encoding="utf-8")
    assert _native.load(tmp_path / "file").library is None
    monkeypatch.setattr(_native, "default_cache", nowhere)
    assert "home" in _native.load().reason
