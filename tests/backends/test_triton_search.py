"""The search for scales in Triton: on a GPU where there is one, else in Triton's interpreter."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from autoround.core import search_nested
from autoround.core.grids.gguf_types import GGUF_TYPES
from autoround.core.grids.grid import Grid, quant_params, to_groups
from autoround.core.grids.levels import integer_levels
from autoround.core.grids.scales import HALF, Half, Nested
from autoround.core.ops import TorchOps
from autoround.types import PER_CHANNEL, PER_TENSOR

from .machine_code import compiled

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if DEVICE.type == "cpu":
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when a kernel is defined
pytest.importorskip("triton", reason="triton is not installed")

from autoround_backends import _triton_search_ops  # noqa: E402
from autoround_backends._triton_ops import TritonOps  # noqa: E402

#: By how much more error than plain torch's there may be: sums are in another order.
CLOSE = 5e-3


def drawn(
    shape: tuple[int, int], size: int, *, stacked: int, seed: int, factor: float = 1.0
) -> tuple[Tensor, Tensor | None]:
    rng = torch.Generator().manual_seed(seed)
    weight = torch.randn(shape, generator=rng) * factor
    weight[0] = 0.0
    weight[-1] = weight[-1].abs() + 0.2 * factor
    groups = to_groups(weight, size)
    if not stacked:
        return groups, None
    importance = torch.rand((stacked, *groups.shape[1:]), generator=rng) ** 4
    return groups, importance


def searched(
    ops: TorchOps, data: tuple[Tensor, Tensor | None], levels: Any, scales: Half | Nested = HALF
) -> Grid:
    groups, importance = data
    device = DEVICE if isinstance(ops, TritonOps) else torch.device("cpu")
    there = None if importance is None else importance.to(device)
    found = ops.search_scales(groups.to(device), there, levels, scales=scales)
    return found.to(torch.device("cpu"))


def errors(data: tuple[Tensor, Tensor | None], grid: Grid) -> Tensor:
    """Return the weighted squared error of every group, float64 [rows, groups, 1]."""
    groups, importance = data
    one = torch.ones_like(grid.lo)
    scale, zero, minimum = (
        None if part is None else part.double() for part in quant_params(grid, one, one)
    )
    assert scale is not None
    assert zero is not None
    low = torch.zeros_like(scale) if minimum is None else minimum
    exact = groups.double()
    codes = (((exact + low) / scale).round() + zero).clamp(0, grid.levels.count - 1)
    weights = torch.ones_like(exact)
    if importance is not None:
        weights = importance.double().repeat_interleave(len(groups) // len(importance), 0)
    return ((scale * (codes - zero) - low - exact).square() * weights).sum(-1, keepdim=True)


def own_weights(groups: Tensor) -> tuple[Tensor, Tensor]:
    """Return groups with the importance that super-blocks have without data."""
    squares = groups.square()
    return groups, squares + squares.mean(-1, keepdim=True)


@contextmanager
def no_fallback() -> Iterator[None]:
    """Let plain torch fail, so that what passes went through the kernels."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("plain torch was asked")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TorchOps, "search_scales", refuse)
        yield


@settings(max_examples=25, deadline=None)
@given(
    rows=st.sampled_from([2, 6]),
    columns=st.integers(1, 90),
    size=st.sampled_from([PER_CHANNEL, PER_TENSOR, 1, 7, 16, 32, 33]),
    bits=st.integers(2, 8),
    sym=st.booleans(),
    lowest=st.integers(0, 1),
    stacked=st.sampled_from([0, 1, 2, -1]),
    factor=st.sampled_from([1.0, 1e-8, 1e4]),
    seed=st.integers(0, 999),
)
def test_what_is_found_is_what_plain_torch_finds(
    rows: int, columns: int, size: int, bits: int, sym: bool, lowest: int, stacked: int,
    factor: float, seed: int,
) -> None:  # fmt: skip
    """-1: importances for each row."""
    shape = (rows, columns)
    stacked = 1 if size == PER_TENSOR and stacked else stacked
    data = drawn(shape, size, stacked=rows if stacked < 0 else stacked, seed=seed, factor=factor)
    levels = integer_levels(bits, sym=sym, lowest_zero=lowest)
    wanted = searched(TorchOps(), data, levels)
    with no_fallback():
        found = searched(TritonOps(DEVICE), data, levels)
    assert found.levels == levels
    same = (found.lo == wanted.lo) & (found.hi == wanted.hi)
    assert same.double().mean() >= 0.9 or (~same).sum() <= 1
    assert errors(data, found).sum() <= errors(data, wanted).sum() * (1 + CLOSE)


@pytest.mark.parametrize("name", [name for name, kind in GGUF_TYPES.items() if kind.nested])
@pytest.mark.parametrize("stacked", [0, 1, 2])
def test_super_blocks_are_those_of_plain_torch(name: str, stacked: int) -> None:
    kind = GGUF_TYPES[name]
    assert kind.nested is not None
    data = drawn((4, kind.block), kind.group_size, stacked=stacked, seed=stacked)
    levels = integer_levels(kind.bits, sym=kind.sym)
    wanted = searched(TorchOps(), data, levels, kind.nested)
    with no_fallback():
        found = searched(TritonOps(DEVICE), data, levels, kind.nested)
    assert found.scales == kind.nested
    same = (found.lo == wanted.lo) & (found.hi == wanted.hi)
    # A scale of a super-block that is rounded another way moves all of its groups.
    assert same.double().mean() >= 0.7
    given_weights = data if stacked else own_weights(data[0])
    ours, theirs = (errors(given_weights, grid).sum() for grid in (found, wanted))
    assert ours <= theirs * 1.005


@pytest.mark.parametrize(("name", "seed"), [("q5_k", 3), ("q4_k", 6), ("q2_k", 8), ("q6_k", 24)])
def test_the_last_integer_of_a_super_block_stays(
    name: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It tells the super-block's float16: with another one all of its groups would be read anew."""
    kind = GGUF_TYPES[name]
    assert kind.nested is not None
    data = drawn((8, 2 * kind.block), kind.group_size, stacked=1 - seed % 2, seed=seed)
    levels = integer_levels(kind.bits, sym=kind.sym)
    wanted = searched(TorchOps(), data, levels, kind.nested)
    with no_fallback():
        found = searched(TritonOps(DEVICE), data, levels, kind.nested)
    rounded = search_nested._sub_scales

    def free(grid: Grid, scales: Nested) -> Any:
        parts = rounded(grid, scales)
        return parts._replace(fixed=torch.zeros_like(parts.fixed))

    monkeypatch.setattr(search_nested, "_sub_scales", free)
    other = searched(TorchOps(), data, levels, kind.nested)
    moved = (other.lo != wanted.lo) | (other.hi != wanted.hi)
    assert moved.any(), "the case shows nothing"
    same = (found.lo == wanted.lo) & (found.hi == wanted.hi)
    assert same[moved].double().mean() > 0.7


@pytest.mark.parametrize("sym", [True, False])
def test_groups_wider_than_registers_are_read_anew(
    sym: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = drawn((3, 150), PER_CHANNEL, stacked=3, seed=5)
    levels = integer_levels(4, sym=sym)
    nested = drawn((2, 256), 32, stacked=1, seed=6)
    kind = Nested(8, -32, 31) if sym else Nested(8, 0, 63)
    wanted = [searched(TorchOps(), data, levels), searched(TorchOps(), nested, levels, kind)]
    monkeypatch.setattr(_triton_search_ops, "BLOCK_W", 16)
    with no_fallback():
        found = [searched(TritonOps(DEVICE), data, levels)]
        found.append(searched(TritonOps(DEVICE), nested, levels, kind))
    for ours, theirs in zip(found, wanted, strict=True):
        same = (ours.lo == theirs.lo) & (ours.hi == theirs.hi)
        assert same.double().mean() >= 0.9


def test_what_does_not_fit_goes_through_plain_torch() -> None:
    ops, plain = TritonOps(DEVICE, max_width=32), TorchOps()
    levels = integer_levels(3, sym=False)
    wide = drawn((3, 64), PER_CHANNEL, stacked=1, seed=1)
    broadcast = drawn((4, 64), 32, stacked=0, seed=2)[0], torch.rand(1, 1, 32)
    groups, importance = drawn((4, 64), 32, stacked=1, seed=3)
    turned = groups.transpose(0, 1).contiguous().transpose(0, 1), importance
    signed = drawn((2, 256), 32, stacked=1, seed=4)
    several: list[tuple[Any, Half | Nested]] = [(each, HALF) for each in (wide, broadcast, turned)]
    for data, scales in (*several, (signed, Nested(8, -32, 31))):
        found, wanted = (searched(one, data, levels, scales) for one in (ops, plain))
        assert torch.equal(found.lo, wanted.lo)
        assert torch.equal(found.hi, wanted.hi)
    with no_fallback(), pytest.raises(AssertionError, match="plain torch was asked"):
        searched(ops, wide, levels)


@pytest.mark.parametrize("sym", [True, False])
def test_they_compile_for_a_gpu(sym: bool) -> None:
    """Compiled, not run: to the machine code of an H100, and nothing leaves the registers."""
    found = compiled(COMPILE, str(int(sym)))
    assert set(found) == {"search", "fit_minima", "correct"}
    for name, counts in found.items():
        assert counts["cubin"], name
        assert not counts["fma"], f"{name}: a product and a sum are rounded once"
        assert not counts["div.full"], f"{name}: a quotient is not rounded to nearest"
        assert not counts["spilled"], f"{name}: registers are spilled"


COMPILE = """
import json, sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from autoround_backends import _triton_search as kernels
sym = bool(int(sys.argv[1]))
tile = {"WIDTH": 128, "WEIGHTED": True, "BLOCK_G": 16, "BLOCK_W": 128}
pointers = ("groups", "importance", "fractions", "lo_in", "hi_in", "lo_out", "hi_out")
types = dict.fromkeys(pointers, "*fp32")
types |= dict.fromkeys(("total", "count", "per", "rungs", "tries", "refinements"), "i32")
types |= dict.fromkeys(("top", "lowest", "low", "high"), "fp32")
constants = {"search": {**tile, "SYM": sym, "ALL_ZEROS": False}, "fit_minima": tile}
constants["correct"] = {**tile, "SYM": sym, "SUPER": 8}
found = {}
for name, held in constants.items():
    function = getattr(kernels, name)
    names = function.arg_names
    signature = {each: types.get(each, "constexpr") for each in names}
    values = {(names.index(each),): value for each, value in held.items()}
    source = ASTSource(function, signature=signature, constexprs=values)
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32),
                          options={"enable_fp_fusion": False})
    words = {"fma": "fma.rn", "div.full": "div.full", "spilled": ".local"}
    found[name] = {key: made.asm["ptx"].count(word) for key, word in words.items()}
    found[name]["cubin"] = len(made.asm["cubin"])
print(json.dumps(found))
"""
