"""The plain ops are the core's own functions; backends are held to the same in tests/backends."""

from __future__ import annotations

import torch

from autoround.core import rounding, rtn, signsgd
from autoround.core.grids.levels import integer_levels
from autoround.core.grids.scales import HALF
from autoround.core.ops import Ops, TorchOps

from ._cases import Case


def test_the_plain_ops_are_the_functions_of_the_core() -> None:
    ops: Ops = TorchOps()
    case = Case((3, 50), 16, 3, False, "normal", moved=True, seed=6)
    dtype = torch.bfloat16
    assert torch.equal(
        ops.fake_quantize(case.groups, case.rounding, grid=case.grid, dtype=dtype),
        rounding.fake_quantize(case.groups, case.rounding, grid=case.grid, dtype=dtype),
    )
    ours = ops.quantize(case.groups, case.rounding, grid=case.grid)
    theirs = rounding.quantize(case.groups, case.rounding, grid=case.grid)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    levels = integer_levels(3, sym=False)
    found = ops.search_scales(case.groups, None, levels, scales=HALF, chunk=32)
    wanted = rtn.search_scales(case.groups, None, levels, scales=HALF)
    assert torch.equal(found.lo, wanted.lo)
    assert torch.equal(found.hi, wanted.hi)
    param = torch.zeros(3)
    state = ops.sign_step([param], [torch.tensor([1.0, -1.0, 0.0])], state=signsgd.init(0.5, 2))
    assert param.tolist() == [-0.5, 0.5, 0.0]
    assert state == signsgd.SignState(0.5, 1, 2)
    ops.sign_step_by([param], [torch.tensor([1.0, -1.0, 0.0])], torch.tensor(0.25))
    assert param.tolist() == [-0.75, 0.75, 0.0]


def test_the_plain_ops_can_be_differentiated() -> None:
    case = Case((3, 50), 16, 3, False, "normal", moved=True, seed=6)
    parts = [part.requires_grad_() for part in case.rounding]
    rounded = rounding.Rounding(*parts)
    result = TorchOps().fake_quantize(case.groups, rounded, grid=case.grid, dtype=torch.float32)
    assert all(grad.any() for grad in torch.autograd.grad(result.square().sum(), parts))
