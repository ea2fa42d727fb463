"""The Triton kernels of tuning: on a GPU where there is one, else in Triton's interpreter."""

from __future__ import annotations

import copy
import dataclasses
import os
from functools import cached_property
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoround.core.gptq import InverseCholesky, gptq_offsets, inverse_cholesky
from autoround.core.grids.grid import Grid, min_max_grid, to_groups
from autoround.core.grids.levels import integer_levels
from autoround.core.grids.scales import Nested
from autoround.core.ops import Ops, TorchOps
from autoround.core.rounding import Rounding, dense_weight
from autoround.core.rtn import Target
from autoround.types import PER_CHANNEL, PER_TENSOR
from autoround_backends import reference
from autoround_backends.conformance import cases
from autoround_backends.conformance.examples import Example, Shape
from autoround_backends.conformance.subject import Subject
from autoround_backends.cpu import BACKEND, CpuRuntime

from ..runs import logits, make_session, quantized
from ..tiny import make_model, token_ids
from .machine_code import compiled

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
if DEVICE.type == "cpu":
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when a kernel is defined
pytest.importorskip("triton", reason="triton is not installed")

from autoround_backends._triton_ops import TritonOps  # noqa: E402


class Interpreted(CpuRuntime):
    """The processor with Triton kernels, which an interpreter runs."""

    @cached_property
    def ops(self) -> Ops:
        return TritonOps(DEVICE)


HELD = Subject(BACKEND, Interpreted())
INTERPRETED = DEVICE.type == "cpu"


def worth_it(name: str) -> bool:
    """Tell which cases are run here: those that touch kernels, and in the interpreter fewer."""
    if any(word in name for word in ("scale", "codes vote", "logits", "memory", "speeds")):
        return False
    if not INTERPRETED:
        return True
    if "twenty" in name:
        return "[2 bits, asym]" in name or "[4 bits, sym]" in name
    if any(size in name for size in ("-tiny]", "-small]", "-huge]")):
        return "12x96-g32-3bit" in name
    # The interpreter cuts float32 to bfloat16 where every device rounds.
    return "bfloat16" not in name and ("48x2048" not in name or "quantize is that" in name)


CASES = {case.name: case for case in cases() if case.computes and worth_it(case.name)}


@pytest.mark.parametrize("name", CASES)
def test_conformance(name: str) -> None:
    CASES[name].run(HELD)


@pytest.fixture
def no_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let plain torch fail, so that what passes went through the kernels."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("plain torch was asked")

    for name in ("fake_quantize", "quantize", "sign_step", "sign_step_by"):
        monkeypatch.setattr(TorchOps, name, refuse)


@pytest.mark.usefixtures("no_fallback")
@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 90),
    size=st.sampled_from([PER_CHANNEL, PER_TENSOR, 1, 7, 16, 32, 33, 128]),
    bits=st.integers(2, 8),
    sym=st.booleans(),
    scale=st.sampled_from([1.0, 1e-8, 1e4]),
    seed=st.integers(0, 999),
)
def test_any_shape_is_that_of_the_oracle(
    rows: int, columns: int, size: int, bits: int, sym: bool, scale: float, seed: int
) -> None:
    shape = Shape((rows, columns), size, bits)
    held = Example(shape, sym=sym, size=scale, seed=seed)
    groups, rounding, grid = held.on(DEVICE)
    parts = [part.requires_grad_() for part in rounding]
    ops = TritonOps(DEVICE)
    out = ops.fake_quantize(groups, Rounding(*parts), grid=grid, dtype=torch.float32)
    found = torch.autograd.grad(out, parts, held.upstream.to(DEVICE))
    codes, scales, zeros = (t.cpu().numpy() for t in ops.quantize(groups, rounding, grid=grid))
    weight, exact, exact_grid = held.oracle
    certain = reference.certain(weight, exact, grid=exact_grid)
    same = held.certain_groups
    wanted = reference.quantize(weight, exact, grid=exact_grid)
    np.testing.assert_array_equal(codes[certain], wanted[0][certain])
    np.testing.assert_array_equal(scales[same], wanted[1][same])
    np.testing.assert_array_equal(zeros[same], wanted[2][same])
    grads = reference.gradients(weight, exact, grid=exact_grid, upstream=held.upstream.numpy())
    np.testing.assert_allclose(
        found[0].cpu().numpy()[certain], grads.offset[certain], rtol=1e-5, atol=1e-12
    )
    whole = certain.all(-1, keepdims=True)
    span = (exact_grid.hi - exact_grid.lo) * np.abs(held.upstream.numpy()).sum(-1, keepdims=True)
    for ours, theirs in zip(found[1:], grads[1:], strict=True):
        assert (np.abs(ours.cpu().numpy() - theirs) <= 2e-6 * span + 1e-12)[whole].all()


@pytest.mark.parametrize("sym", [True, False])
def test_columns_of_a_layer_go_through_the_kernel(
    sym: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = torch.Generator().manual_seed(3)
    inputs = torch.randn((256, 96), generator=rng) @ torch.randn((96, 96), generator=rng)
    groups = to_groups(torch.randn((40, 96), generator=rng), 32)
    factor = inverse_cholesky(inputs.t() @ inputs)
    assert factor is not None
    task = Target(groups, min_max_grid(groups, integer_levels(4, sym=sym)), (40, 96))
    plain = gptq_offsets(task, factor)

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("plain torch was asked")

    monkeypatch.setattr(TorchOps, "gptq_block", refuse)
    grid = task.grid.to(DEVICE)
    there = Target(groups.to(DEVICE), grid, task.shape)
    whole = InverseCholesky(*(part.to(DEVICE) for part in factor))
    found = gptq_offsets(there, whole, round_block=TritonOps(DEVICE).gptq_block).cpu()
    # A row goes another way from where a sum in another order rounds a level otherwise.
    assert ((found - plain).abs().amax((1, 2)) < 1e-3).double().mean() >= 0.9


def drawn(shape: tuple[int, int], size: int, *, bits: int, sym: bool, seed: int) -> Any:
    """Draw a weight, a rounding and a grid whose numbers often lie on ties."""
    rng = torch.Generator().manual_seed(seed)
    groups = to_groups(torch.randint(-9, 10, shape, generator=rng) / 8.0, size)
    halves = torch.randint(-2, 3, groups.shape, generator=rng) / 4.0
    factors = [torch.randint(1, 5, groups[..., :1].shape, generator=rng) / 4.0 for _ in range(2)]
    return groups, Rounding(halves, *factors), min_max_grid(groups, integer_levels(bits, sym=sym))


def on(tensors: Any) -> Any:
    """Move a weight, a rounding and a grid to the device."""
    groups, rounding, grid = tensors
    moved = grid._replace(lo=grid.lo.to(DEVICE), hi=grid.hi.to(DEVICE))
    return groups.to(DEVICE), Rounding(*(part.to(DEVICE) for part in rounding)), moved


def cut(tensor: torch.Tensor) -> torch.Tensor:
    """Turn float32 into bfloat16 as the interpreter does: by leaving digits out."""
    return (tensor.view(torch.int32) & -65536).view(torch.float32).to(torch.bfloat16)


@pytest.mark.parametrize("sym", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_levels_are_those_of_plain_torch_bit_for_bit(
    bits: int, sym: bool, dtype: torch.dtype
) -> None:
    """Ties and scales rounded to float16 included, for tensors of two shapes at once."""
    plain, ops = TorchOps(), TritonOps(DEVICE)
    each = [drawn(s, 16, bits=bits, sym=sym, seed=bits) for s in ((9, 48), (4, 40))]
    weights, roundings, grids = map(list, zip(*each, strict=True))
    ours = [list(parts) for parts in zip(*map(on, each), strict=True)]
    outs = ops.fake_quantize_all(ours[0], ours[1], grids=ours[2], dtype=dtype)
    exact = plain.fake_quantize_all(weights, roundings, grids=grids, dtype=dtype)
    if INTERPRETED and dtype == torch.bfloat16:
        full = plain.fake_quantize_all(weights, roundings, grids=grids, dtype=torch.float32)
        exact = [cut(part) for part in full]
    assert all(map(torch.equal, [out.cpu() for out in outs], exact))
    held = ops.quantize_all(ours[0], ours[1], grids=ours[2])
    wanted = plain.quantize_all(weights, roundings, grids=grids)
    for found, given_ in zip(held, wanted, strict=True):
        assert all(map(torch.equal, [part.cpu() for part in found], given_))


def test_scales_at_both_ends_of_float16() -> None:
    sizes = torch.tensor([0.0, 1e-9, 1e-5, 3e-5, 1.0, 6e4, 5e5, 1e7])
    groups = (sizes[:, None] * torch.linspace(-1, 1, 8)).reshape(1, 8, 8)
    ones = torch.ones((1, 8, 1))
    for sym in (True, False):
        tensors = (groups, Rounding(torch.zeros_like(groups), ones, ones.clone()))
        grid = min_max_grid(groups, integer_levels(4, sym=sym))
        found = TritonOps(DEVICE).quantize_all(
            *([part] for part in on((*tensors, grid))[:2]), grids=[on((*tensors, grid))[2]]
        )[0]
        wanted = TorchOps().quantize(*tensors, grid=grid)
        assert all(map(torch.equal, [part.cpu() for part in found], wanted))


def test_one_launch_for_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    ops, starts = TritonOps(DEVICE), []
    start = TritonOps.start

    def counted(self: TritonOps, kernel: Any, *args: Any, **kwargs: Any) -> None:
        starts.append(kernel.__name__)
        start(self, kernel, *args, **kwargs)

    monkeypatch.setattr(TritonOps, "start", counted)
    shapes = ((6, 64), (3, 96), (5, 32), (2, 64))
    each = [on(drawn(s, 32, bits=b, sym=True, seed=b)) for b, s in enumerate(shapes, start=2)]
    weights, roundings, grids = map(list, zip(*each, strict=True))
    parts = [part.requires_grad_() for rounding in roundings for part in rounding]
    outs = ops.fake_quantize_all(weights, roundings, grids=grids, dtype=torch.bfloat16)
    torch.autograd.grad(outs, parts, [torch.ones_like(out) for out in outs])
    ops.quantize_all(weights, roundings, grids=grids)
    assert starts == ["fake_quantize", "backward", "quantize"]


def test_what_does_not_fit_goes_through_plain_torch() -> None:
    ops, plain = TritonOps(DEVICE, max_width=32), TorchOps()
    nested = drawn((2, 64), 8, bits=4, sym=True, seed=1)
    nested = (*nested[:2], nested[2]._replace(scales=Nested(8, -32, 31)))
    wide = drawn((3, 64), PER_CHANNEL, bits=4, sym=True, seed=2)
    turned = drawn((4, 64), 32, bits=4, sym=False, seed=3)
    turned = (turned[0].transpose(0, 1).contiguous().transpose(0, 1), *turned[1:])
    fitting = drawn((5, 64), 32, bits=3, sym=False, seed=4)
    each = [nested, fitting, wide, turned]
    weights, roundings, grids = map(list, zip(*map(on, each), strict=True))
    outs = ops.fake_quantize_all(weights, roundings, grids=grids, dtype=torch.float32)
    held = ops.quantize_all(weights, roundings, grids=grids)
    for (weight, rounding, grid), out, codes in zip(each, outs, held, strict=True):
        exact = plain.fake_quantize(weight, rounding, grid=grid, dtype=torch.float32)
        assert torch.equal(out.cpu(), exact)
        wanted = plain.quantize(weight, rounding, grid=grid)
        assert all(map(torch.equal, [part.cpu() for part in codes], wanted))


def test_numbers_that_move_elsewhere_are_followed() -> None:
    """Addresses are kept between calls; a new tensor in place of an old one is another."""
    ops, plain = TritonOps(DEVICE), TorchOps()
    for seed in range(4):
        weight, rounding, grid = drawn((6, 32), 16, bits=4, sym=True, seed=seed)
        own: tuple[torch.Tensor, Rounding, Grid] = on((weight, rounding, grid))
        for _ in range(2):
            out = ops.fake_quantize(own[0], own[1], grid=own[2], dtype=torch.float32)
            exact = plain.fake_quantize(weight, rounding, grid=grid, dtype=torch.float32)
            assert torch.equal(out.cpu(), exact)
            rounding.offset.add_(0.25)
            own[1].offset.add_(0.25)


@pytest.mark.slow
def test_a_model_tuned_by_them_is_as_good() -> None:
    """The same recipe through Triton kernels and through the C kernels: perplexities."""
    model, ids = make_model("llama"), token_ids(8, 32)
    values: dict[str, object] = {"tuning.iters": 6, "calibration.nsamples": 8}
    values["calibration.seqlen"] = 32
    found = []
    for runtime in (CpuRuntime(), Interpreted()):
        job = dataclasses.replace(make_session(model, values, data=ids), runtime=runtime)
        layers = quantized(job)
        tuned = copy.deepcopy(model)
        with torch.no_grad():
            for name, layer in layers.items():
                tuned.get_submodule(name).weight.copy_(dense_weight(layer))
        scored = token_ids(16, 32, seed=1)
        loss = torch.nn.functional.cross_entropy(
            logits(tuned, scored)[:, :-1].flatten(0, 1), scored[:, 1:].flatten()
        )
        found.append((layers, float(loss.exp())))
    (plain, ours), (triton, theirs) = found
    assert abs(theirs / ours - 1) < 0.005
    for name, layer in plain.items():
        assert (layer.codes == triton[name].codes).double().mean() > 0.97, name


@pytest.mark.parametrize("sym", [True, False])
def test_they_compile_for_a_gpu(sym: bool) -> None:
    """Compiled, not run: to the machine code of an H100, with roundings as IEEE has them."""
    found = compiled(COMPILE, str(int(sym)))
    assert set(found) == {"fake_quantize", "backward", "quantize", "sign_step", "gptq_block"}
    for name, counts in found.items():
        assert counts["cubin"], name
        assert not counts["fma"], f"{name}: a product and a sum are rounded once"
        assert not counts["div.full"], f"{name}: a quotient is not rounded to nearest"
        # Its tile lies by columns of any length: no address of it is known to be a multiple.
        assert counts["vectors"] or name == "gptq_block", f"{name}: read one by one"
    assert found["fake_quantize"]["cvt.rn.bf16"], "bfloat16 is cut, not rounded"
    assert not any(counts["cvt.rz.bf16"] for counts in found.values())


COMPILE = """
import json, sys
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from autoround_backends import _triton_tuning as kernels
tile = {"WIDTH": 128, "SYM": bool(int(sys.argv[1])), "BLOCK_G": 16, "BLOCK_W": 128}
tile["ALIGNED"] = True
types = {"table": "*i64", "count": "i32", "out": "*bf16", "upstream": "*i64", "lr": "fp32"}
types |= dict.fromkeys(("grad_offset", "grad_lo", "grad_hi"), "*fp32")
types |= {"codes": "*u8", "zeros": "*u8", "scales": "*fp16", "top": "fp32"}
laid = ("weight", "scale", "low", "minimum", "upper", "positions", "errors")
types |= dict.fromkeys(laid, "*fp32") | dict.fromkeys(("columns", "rows", "stride"), "i32")
constants = {"fake_quantize": tile, "quantize": tile}
constants["backward"] = {**tile, "RANGE": True, "GRAD": tl.bfloat16}
constants["sign_step"] = {"QUEUED": False, "BLOCK": 2048, "ALIGNED": True}
constants["gptq_block"] = {"BLOCK_C": 64, "BLOCK_R": 32}
found = {}
for name, held in constants.items():
    function = getattr(kernels, name)
    names = function.arg_names
    signature = {each: types.get(each, "constexpr") for each in names}
    values = {(names.index(each),): value for each, value in held.items()}
    source = ASTSource(function, signature=signature, constexprs=values)
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32),
                          options={"enable_fp_fusion": False})
    words = {"fma": "fma.rn", "div.full": "div.full", "vectors": ".v4.b32",
             "cvt.rn.bf16": "cvt.rn.bf16", "cvt.rz.bf16": "cvt.rz.bf16"}
    found[name] = {key: made.asm["ptx"].count(word) for key, word in words.items()}
    found[name]["cubin"] = len(made.asm["cubin"])
print(json.dumps(found))
"""
