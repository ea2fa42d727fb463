"""The C kernels of the CPU: the numbers of plain torch, and runs without them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from autoround.core import end_to_end as distill
from autoround.core import signsgd
from autoround.core.end_to_end import SignVotes
from autoround.core.grids.grid import Grid, min_max_grid
from autoround.core.grids.levels import integer_levels
from autoround.core.grids.scales import HALF, Nested
from autoround.core.ops import TorchOps
from autoround.core.rounding import Rounding, initial_rounding
from autoround.types import QuantizedTensor, Scheme
from autoround_backends import _native, cpu
from autoround_backends._cpu_ops import CpuOps
from autoround_backends._kernel_cache import DIGEST, is_whole

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
    factors = [torch.rand(start.min_scale.shape, generator=rng) * 0.7 + 0.4 for _ in range(2)]
    upstream = torch.randn(shape, generator=rng)
    upstream[..., ::5] = 0.0
    return weight, Rounding(value, *factors), upstream


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
    grid = min_max_grid(given_[0], integer_levels(bits, sym=sym), scales=kind or HALF)
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
    grid = min_max_grid(weight, integer_levels(4, sym=True))
    for dtype in (torch.float32, torch.float16):
        ours = run(fused, (turned, rounding, upstream), grid, dtype)
        theirs = run(TorchOps(), (weight, rounding, upstream), grid, dtype)
        assert torch.equal(ours[0], theirs[0])
    param = torch.ones(4, 3).t()
    fused.sign_step([param], [torch.ones(3, 4)], state=signsgd.init(0.5, 2))
    assert torch.equal(param, torch.full((3, 4), 0.5))


def stamps(folder: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}


@needs_compiler
def test_a_build_is_kept(tmp_path: Path) -> None:
    assert _native.load(tmp_path).library is not None
    before = stamps(tmp_path)
    assert sorted(Path(name).suffix for name in before) == [".sha256", ".so"]
    _native.load.cache_clear()
    assert _native.load(tmp_path).library is not None
    assert stamps(tmp_path) == before


def emptied(library: Path) -> None:
    library.write_bytes(b"")


def halved(library: Path) -> None:
    library.write_bytes(library.read_bytes()[: library.stat().st_size // 2])


def changed(library: Path) -> None:
    data = bytearray(library.read_bytes())
    data[len(data) // 2] ^= 1
    library.write_bytes(bytes(data))


def without_digest(library: Path) -> None:
    library.with_name(library.name + DIGEST).unlink()


def writable(library: Path) -> None:
    library.chmod(0o666)


def gone(library: Path) -> None:
    library.unlink()


@needs_compiler
@pytest.mark.parametrize("damage", [emptied, halved, changed, without_digest, writable, gone])
def test_a_kept_build_that_is_damaged_is_built_again(
    damage: Callable[[Path], None], tmp_path: Path
) -> None:
    assert _native.load(tmp_path).library is not None
    (library,) = tmp_path.glob("*.so")
    whole = library.read_bytes()
    # Another file: the one that is loaded must not change.
    copied = tmp_path / "copy"
    copied.write_bytes(whole)
    copied.replace(library)
    damage(library)
    _native.load.cache_clear()
    assert CpuOps(_native.load(tmp_path).library) is not None
    assert library.stat().st_size > 1000
    assert is_whole(library)


@needs_compiler
@pytest.mark.parametrize("kind", ["writable", "no folder", "read-only"])
def test_without_a_folder_of_ones_own_a_build_serves_this_process(
    kind: str, tmp_path: Path
) -> None:
    folder = tmp_path / "kernels"
    if kind == "no folder":
        folder.write_text("in the way")
    else:
        folder.mkdir()
        folder.chmod(0o777 if kind == "writable" else 0o555)
    if kind == "read-only" and os.access(folder, os.W_OK):
        pytest.skip("root may write anywhere")
    native = _native.load(folder)
    assert native.library is not None
    assert "not kept for the next run" in native.reason
    assert kind == "no folder" or list(folder.iterdir()) == []


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
def test_without_a_home_folder_a_build_serves_this_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(_native, "default_cache", nowhere)
    native = _native.load()
    assert native.library is not None
    assert "home" in native.reason


@needs_compiler
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    bits=st.integers(2, 8),
    shape=st.sampled_from([(3, 64), (5, 96), (2, 40), (1, 16)]),
    size=st.sampled_from([8, 16, 32, -1]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_scaled_weights_are_those_of_torch(
    fused: CpuOps, seed: int, bits: int, shape: tuple[int, int], size: int, dtype: torch.dtype
) -> None:
    rng = torch.Generator().manual_seed(seed)
    held = (shape[0], -(-shape[1] // (size if size > 0 else shape[1])))
    layer = QuantizedTensor(
        torch.randint(0, 2**bits, shape, generator=rng).to(torch.uint8),
        (torch.randn(held, generator=rng) * 0.1).half(),
        torch.randint(0, 2**bits, held, generator=rng).to(torch.uint8),
        Scheme(bits, size, False),
    )
    factor = 0.8 + 0.4 * torch.rand((*held, 1), generator=rng)
    upstream = torch.randn(shape, generator=rng).to(dtype)
    upstream[..., ::5] = 0.0
    found = []
    for ops in (fused, TorchOps()):
        own = replace(layer, codes=layer.codes.clone())
        out = ops.scaled_weight(own, factor, dtype=dtype)
        votes = torch.randint(-127, 128, shape, generator=rng.manual_seed(seed)).to(torch.int8)
        fixed = ops.scale_gradient(own, upstream)
        assert torch.equal(own.codes, layer.codes)
        free = ops.scale_gradient(own, upstream, SignVotes(votes, 60))
        found.append((out, own.codes, votes, fixed, free))
    for one, other in zip(found[0][:3], found[1][:3], strict=True):
        assert torch.equal(one, other)
    for one, other in zip(found[0][3:], found[1][3:], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@needs_compiler
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    shape=st.sampled_from([(1, 1), (3, 17), (2, 1024), (4, 3001)]),
    spread=st.sampled_from([0.0, 1.0, 30.0, 300.0]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_the_divergence_is_that_of_exact_arithmetic(
    fused: CpuOps, seed: int, shape: tuple[int, int], spread: float, dtype: torch.dtype
) -> None:
    rng = torch.Generator().manual_seed(seed)
    student, teacher = ((torch.randn(shape, generator=rng) * spread).to(dtype) for _ in range(2))
    loss, grad = fused.divergence(student, teacher)
    wanted, own = teacher.double().log_softmax(-1), student.double().log_softmax(-1)
    exact = float((wanted.exp() * (wanted - own)).sum())
    assert loss == pytest.approx(exact, rel=1e-4, abs=1e-5)
    assert grad.dtype == dtype
    apart = (grad.double() - (own.exp() - wanted.exp())).abs().max()
    assert float(apart) <= (1e-5 if dtype == torch.float32 else 4e-3)
    assert distill.divergence(student, teacher)[0] == pytest.approx(exact, rel=1e-4, abs=1e-4)
