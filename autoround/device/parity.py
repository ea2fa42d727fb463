"""A check of some milliseconds: do a device's operations say what plain torch says on a CPU?

It is what a backend asks of its own kernels before it uses them, and what ``autoround doctor``
asks of every device. The whole suite is ``python -m autoround_backends.conformance``.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from autoround.core import signsgd
from autoround.core.grids.grid import Grid, min_max_grid, to_groups
from autoround.core.grids.levels import IntegerLevels, integer_levels
from autoround.core.grids.scales import HALF, Half, Nested
from autoround.core.ops import Ops, TorchOps
from autoround.core.rounding import Rounding, fake_quantize, initial_rounding

#: Share of the levels that may be another one, next to it: those that lie on a tie.
TIES = 1e-3
#: Relative size of a difference between sums of float32.
CLOSE = 1e-4
#: (bits, symmetric, group size): one that divides the width of the weights and one that does not.
GRIDS = ((4, True, 32), (3, False, 32), (2, True, 24), (8, False, -1))
#: Grids whose search is compared: those of both kinds, and one with super-blocks of minima.
SEARCHES: tuple[tuple[int, bool, int, Half | Nested], ...] = (
    (4, True, 32, HALF),
    (3, False, 32, HALF),
    (4, False, 32, Nested(8, 0, 63)),
)
#: How much more error searched grids may have, relative to plain torch's: ties fall either way.
WORSE = 5e-3
#: Two tensors of different shapes, as a block has them.
SHAPES = ((24, 96), (7, 160))


class _Case(NamedTuple):
    weights: list[Tensor]
    roundings: list[Rounding]
    grids: list[Grid]
    upstream: list[Tensor]

    def on(self, device: torch.device) -> _Case:
        """Copy everything to a device."""
        return _Case(
            [weight.to(device) for weight in self.weights],
            [
                Rounding(*(part.clone().to(device).requires_grad_() for part in rounding))
                for rounding in self.roundings
            ],
            [grid.to(device) for grid in self.grids],
            [grad.to(device) for grad in self.upstream],
        )


def disagreement(ops: Ops, device: torch.device) -> str:
    """Return where operations on a device differ from plain torch on a CPU; empty if nowhere.

    Args:
        ops: to compare. device: that they work on.

    Returns:
        The first difference in words, with the grid it is on.
    """
    plain, host = TorchOps(), torch.device("cpu")
    for bits, sym, size in GRIDS:
        case = _draw_case(bits, sym=sym, size=size)
        results, wanted = _results(ops, case.on(device)), _results(plain, case.on(host))
        for what, ours in results.items():
            reason = _difference(what, ours, wanted[what])
            if reason:
                return f"{reason} {_grid_name(bits, sym, size)}"
    for bits, sym, size, scales in SEARCHES:
        reason = _search_difference(ops, device, (integer_levels(bits, sym=sym), size, scales))
        if reason:
            return f"{reason} {_grid_name(bits, sym, size)}"
    return ""


def _grid_name(bits: int, sym: bool, size: int) -> str:
    return f"({bits} bits, {'symmetric' if sym else 'asymmetric'}, groups of {size})"


def _search_difference(
    ops: Ops, device: torch.device, kind: tuple[IntegerLevels, int, Half | Nested]
) -> str:
    """Compare what a search finds for a weight with two importances, one for each half of it."""
    levels, size, scales = kind
    rng = torch.Generator().manual_seed(levels.bits)
    groups = to_groups(torch.randn((6, 256), generator=rng) / 8, size)
    importance = torch.rand((2, *groups.shape[1:]), generator=rng).square()
    ours = ops.search_scales(groups.to(device), importance.to(device), levels, scales=scales)
    plain = TorchOps().search_scales(groups, importance, levels, scales=scales)
    shape = ours.lo.shape
    if shape != plain.lo.shape:
        return f"searched ranges: {tuple(shape)} in place of {tuple(plain.lo.shape)}"
    weights = importance.repeat_interleave(3, 0).double()
    errors = []
    for grid in (ours.to(torch.device("cpu")), plain):
        rounded = fake_quantize(groups, initial_rounding(groups), grid=grid, dtype=torch.float32)
        errors.append(float(((rounded - groups).double().square() * weights).sum()))
    # Not "greater than": a NaN is worse as well.
    if not errors[0] <= errors[1] * (1 + WORSE):
        return f"searched ranges: {errors[0] / errors[1]:.3f} times the error"
    return ""


def _draw_case(bits: int, *, sym: bool, size: int) -> _Case:
    rng = torch.Generator().manual_seed(bits)
    weights = [to_groups(torch.randn(shape, generator=rng) / 8, size) for shape in SHAPES]
    roundings = []
    for weight in weights:
        ends = weight[..., :1].shape
        # Below one, so that some weights are clamped: they have other gradients than those inside.
        factors = [0.5 + 0.5 * torch.rand(ends, generator=rng) for _ in range(2)]
        roundings.append(Rounding(torch.rand(weight.shape, generator=rng) - 0.5, *factors))
    grids = [min_max_grid(weight, integer_levels(bits, sym=sym)) for weight in weights]
    upstream = [torch.randn(weight.shape, generator=rng) for weight in weights]
    return _Case(weights, roundings, grids, upstream)


def _results(ops: Ops, case: _Case) -> dict[str, list[Tensor]]:
    """Run every operation of tuning once; levels are told from sums by their names."""
    parts = [part for rounding in case.roundings for part in rounding]
    rounded = ops.fake_quantize_all(
        case.weights, case.roundings, grids=case.grids, dtype=torch.float32
    )
    # In turn of offset, min_scale and max_scale, as the parts are: every third is of one kind.
    grads = list(torch.autograd.grad(rounded, parts, case.upstream))
    quantized = ops.quantize_all(case.weights, case.roundings, grids=case.grids)
    moved = [rounding.offset.detach().clone() for rounding in case.roundings]
    # Copies: a step may overwrite its gradients, which are compared too.
    ops.sign_step(moved, [grad.clone() for grad in grads[::3]], state=signsgd.init(0.1, 4))
    return {
        "levels": [codes for codes, _, _ in quantized],
        "scales": [scale for _, scale, _ in quantized],
        "zero points": [zero for _, _, zero in quantized],
        "fake-quantized weights": [out.detach() for out in rounded],
        "gradients of offsets": grads[::3],
        "gradients of min_scale and max_scale": [*grads[1::3], *grads[2::3]],
        "offsets after a step": moved,
    }


def _difference(what: str, ours: list[Tensor], wanted: list[Tensor]) -> str:
    for tensor, plain in zip(ours, wanted, strict=True):
        actual, exact = tensor.to("cpu").double(), plain.double()
        if actual.shape != exact.shape or tensor.dtype != plain.dtype:
            return f"{what}: {tuple(actual.shape)} {tensor.dtype} in place of {tuple(exact.shape)}"
        near = CLOSE * exact.abs().max()
        # Not "greater than": a NaN is apart as well.
        apart = int((~((actual - exact).abs() <= near)).sum())
        # A weight on a tie is another level, with another gradient for its group.
        allowed = TIES * exact.numel() if "min_scale" not in what else 0.01 * exact.numel()
        if apart > allowed:
            return f"{what}: {apart} of {exact.numel()} differ"
    return ""
