"""The operations of tuning by our Triton kernels: a launch for all tensors of a block.

Tensors of other groups or another kind of grid get a launch of their own; nested grids, groups
wider than MAX_WIDTH and what is not laid out in float32 go through plain torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from autoround.core import signsgd
from autoround.core.gptq import ColumnBlock
from autoround.core.grids.grid import Grid
from autoround.core.grids.levels import AsymmetricLevels, IntegerLevels
from autoround.core.grids.scales import Half, Nested
from autoround.core.ops import TorchOps
from autoround.core.rounding import Rounding
from autoround.core.search import CHUNK_ELEMENTS
from autoround.core.search_nested import search_nested
from autoround.core.signsgd import SignState
from autoround_backends import _triton_tuning as kernels
from autoround_backends._address_tables import AddressTables, signed
from autoround_backends._search_layout import MAX_WIDTH
from autoround_backends._triton_search_ops import TritonSearch

#: Elements a program holds at a time, and those of one step along a group.
BLOCK, BLOCK_W = 2048, 1024
#: Columns of a GPTQ block at most, and rows of it that a program holds.
MAX_COLUMNS, PROGRAM_ROWS = 64, 32
#: Bytes that addresses, and elements that groups, must be a multiple of to be read as vectors.
ALIGNED = 16
_TYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


class Item(NamedTuple):
    """One tensor to round."""

    weight: Tensor
    rounding: Rounding
    grid: Grid


class _Launch(NamedTuple):
    """Tensors that share a launch, and what the kernels are told of them.

    groups: of each. table: see _triton_tuning.py.
    """

    table: Tensor
    groups: tuple[int, ...]
    programs: int
    width: int
    sym: bool
    aligned: bool

    @property
    def constants(self) -> dict[str, Any]:
        wide = min(BLOCK_W, 1 << max(0, self.width - 1).bit_length())
        return {
            "WIDTH": self.width,
            "SYM": self.sym,
            "BLOCK_G": max(1, BLOCK // wide),
            "BLOCK_W": wide,
            "ALIGNED": self.aligned,
            # Products that are part of a sum must round as they do on a CPU.
            "enable_fp_fusion": False,
        }

    def cut(self, flat: Tensor, width: int) -> list[Tensor]:
        """Cut a buffer of all groups into tensors [groups, width]."""
        return list(flat.view(-1, width).split(self.groups))


class TritonOps(TorchOps):
    """Ours where tensors are laid out as the kernels want them, else plain torch.

    Args:
        device: that tensors are on.
        on: makes the device the current one while a kernel is started.
        max_width: widest group that goes through the kernels.
    """

    def __init__(
        self,
        device: torch.device,
        on: Callable[[], AbstractContextManager[object]] = nullcontext,
        *,
        max_width: int = MAX_WIDTH,
    ) -> None:
        self._device = device
        self._on = on
        self._max_width = max_width
        self._tables = AddressTables(device)
        self._search = TritonSearch(device, on, max_width=max_width)

    @torch.no_grad()
    def search_scales(
        self,
        groups: Tensor,
        importance: Tensor | None,
        levels: IntegerLevels,
        *,
        scales: Half | Nested,
        chunk: int = CHUNK_ELEMENTS,
    ) -> Grid:
        """Search the scales and zero points of least weighted squared error."""
        if not self._search.fits(groups, importance, levels, scales):
            return super().search_scales(groups, importance, levels, scales=scales, chunk=chunk)
        if isinstance(scales, Nested):
            return search_nested(groups, importance, levels, scales=scales, stages=self._search)
        return self._search.search_grid(groups, importance, levels)

    def fake_quantize(
        self, weight: Tensor, rounding: Rounding, *, grid: Grid, dtype: torch.dtype
    ) -> Tensor:
        """Round a weight to its grid and back, differentiably."""
        return self.fake_quantize_all([weight], [rounding], grids=[grid], dtype=dtype)[0]

    def quantize(
        self, weight: Tensor, rounding: Rounding, *, grid: Grid
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Round a weight to its grid for good."""
        return self.quantize_all([weight], [rounding], grids=[grid])[0]

    def fake_quantize_all(
        self,
        weights: Sequence[Tensor],
        roundings: Sequence[Rounding],
        *,
        grids: Sequence[Grid],
        dtype: torch.dtype,
    ) -> list[Tensor]:
        """Round the tensors of a block to their grids and back, differentiably."""
        items = [Item(*parts) for parts in zip(weights, roundings, grids, strict=True)]
        rounded: dict[int, Tensor] = {}
        for numbers in self._together(items) if dtype in _TYPES else ():
            chosen = [items[number] for number in numbers]
            launch = self._launch(chosen)
            flat = [part for item in chosen for part in (item.weight, *item.rounding)]
            outs = _Fused.apply(_How(self, launch, dtype), *flat)  # type: ignore[no-untyped-call]
            rounded |= dict(zip(numbers, outs, strict=True))
        for number, item in enumerate(items):
            if number not in rounded:
                rounded[number] = super().fake_quantize(
                    item.weight, item.rounding, grid=item.grid, dtype=dtype
                )
        return [rounded[number] for number in range(len(items))]

    @torch.no_grad()
    def quantize_all(
        self, weights: Sequence[Tensor], roundings: Sequence[Rounding], *, grids: Sequence[Grid]
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Round the tensors of a block to their grids for good."""
        items = [Item(*parts) for parts in zip(weights, roundings, grids, strict=True)]
        quantized: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        for numbers in self._together(items):
            launch = self._launch([items[number] for number in numbers])
            total = sum(launch.groups)
            codes = torch.empty(total * launch.width, dtype=torch.uint8, device=self._device)
            scale = torch.empty(total, dtype=torch.float16, device=self._device)
            zero = torch.empty(total, dtype=torch.uint8, device=self._device)
            self.start(kernels.quantize, launch, codes, scale, zero)
            # One buffer for all tensors of a launch, cut into views: one kernel fills it.
            parts = (
                launch.cut(codes, launch.width),
                launch.cut(scale, 1),
                launch.cut(zero, 1),
            )
            for number, *pieces in zip(numbers, *parts, strict=True):
                shape = items[number].weight.shape[:2]
                whole = [part.view(*shape, -1) for part in pieces]
                quantized[number] = (whole[0], whole[1], whole[2])
        for number, item in enumerate(items):
            if number not in quantized:
                quantized[number] = super().quantize(item.weight, item.rounding, grid=item.grid)
        return [quantized[number] for number in range(len(items))]

    @torch.no_grad()
    def sign_step(
        self, params: Sequence[Tensor], grads: Sequence[Tensor], *, state: SignState
    ) -> SignState:
        """Move parameters against the signs of their gradients, in place."""
        if not params or not all(map(self._fits, (*params, *grads))):
            return super().sign_step(params, grads, state=state)
        lr = signsgd.linear_lr(state.lr, state.step, steps=state.steps)
        self._move(params, grads, lr)
        return state._replace(step=state.step + 1)

    @torch.no_grad()
    def sign_step_by(self, params: Sequence[Tensor], grads: Sequence[Tensor], lr: Tensor) -> None:
        """Move parameters against the signs of their gradients at a rate of the device."""
        if not params or not all(map(self._fits, (*params, *grads, lr))):
            super().sign_step_by(params, grads, lr)
        else:
            self._move(params, grads, lr)

    def _move(self, params: Sequence[Tensor], grads: Sequence[Tensor], lr: float | Tensor) -> None:
        sizes = [param.numel() for param in params]
        # A table says where each tensor begins, so that one launch serves all of them.
        firsts, programs = _firsts([-(-size // BLOCK) for size in sizes])
        addresses = [[t.data_ptr() for t in tensors] for tensors in (params, grads)]
        aligned = _aligned(*addresses[0], *addresses[1], *sizes)
        table = self._tables.get([*addresses, sizes, firsts])
        with self._on():
            kernels.sign_step[(programs,)](
                table, len(params), lr,
                QUEUED=isinstance(lr, Tensor), BLOCK=BLOCK, ALIGNED=aligned,
            )  # fmt: skip

    @torch.no_grad()
    def gptq_block(self, block: ColumnBlock) -> tuple[Tensor, Tensor]:
        """Round the columns of a block in turn, each compensating the errors of those before it."""
        per_weight = (block.weight, block.scale, block.low, block.minimum)
        columns, rows = block.weight.shape
        fits = all(map(self._fits, per_weight)) and block.upper.stride(-1) == 1
        # The kernel knows evenly spaced levels only.
        fits = fits and isinstance(block.levels, IntegerLevels)
        if not fits or not 0 < columns <= MAX_COLUMNS or not rows:
            return super().gptq_block(block)
        positions, errors = torch.empty_like(block.weight), torch.empty_like(block.weight)
        sizes = (columns, rows, block.upper.stride(0), float(block.levels.count - 1))
        with self._on():
            kernels.gptq_block[(-(-rows // PROGRAM_ROWS),)](
                *per_weight, block.upper, positions, errors, *sizes,
                BLOCK_C=MAX_COLUMNS, BLOCK_R=PROGRAM_ROWS, enable_fp_fusion=False,
            )  # fmt: skip
        return positions, errors

    def start(
        self,
        kernel: Any,
        launch: _Launch,
        *tensors: Tensor,
        constants: Mapping[str, Any] | None = None,
    ) -> None:
        """Start a kernel over all tensors of a launch."""
        merged = {**launch.constants, **(constants or {})}
        with self._on():
            kernel[(launch.programs,)](launch.table, len(launch.groups), *tensors, **merged)

    def addresses(self, tensors: Sequence[Tensor]) -> Tensor:
        """Return where tensors lie, int64 [tensors], made on the device: a graph can hold that."""
        return torch.stack(
            [
                torch.full((), signed(t.data_ptr()), dtype=torch.int64, device=self._device)
                for t in tensors
            ]
        )

    def _fits(self, tensor: Tensor) -> bool:
        on_it = tensor.device.type == self._device.type
        return on_it and tensor.dtype == torch.float32 and tensor.is_contiguous()

    def _together(self, items: Sequence[Item]) -> Iterator[list[int]]:
        """Yield the numbers of tensors that share a launch."""
        kinds: dict[tuple[int, bool], list[int]] = {}
        for number, (weight, rounding, grid) in enumerate(items):
            fits = all(map(self._fits, (weight, *rounding, grid.lo, grid.hi)))
            narrow = 0 < weight.shape[-1] <= self._max_width and weight.numel() > 0
            levels = grid.levels
            known = isinstance(levels, IntegerLevels) and isinstance(grid.scales, Half)
            if fits and narrow and known:
                # Width and symmetry are constants of a compiled kernel; bits are in the table.
                kinds.setdefault((weight.shape[-1], levels.fixed_zero), []).append(number)
        yield from kinds.values()

    def _launch(self, items: Sequence[Item]) -> _Launch:
        width, sym = items[0].weight.shape[-1], items[0].grid.levels.fixed_zero
        groups = [item.weight.numel() // width for item in items]
        tensors = [(i.weight, *i.rounding, i.grid.lo, i.grid.hi) for i in items]
        rows = [[parts[field].data_ptr() for parts in tensors] for field in range(6)]
        aligned = width % ALIGNED == 0 and _aligned(*rows[0], *rows[1])
        bare = _Launch(torch.empty(0), tuple(groups), 0, width, sym, aligned)
        each = bare.constants["BLOCK_G"]
        firsts, programs = _firsts([-(-count // each) for count in groups])
        rows += [groups, firsts, _firsts(groups)[0]]
        rows += [[i.grid.levels.count - 1 for i in items], [_lowest_zero(i.grid) for i in items]]
        return bare._replace(table=self._tables.get(rows), programs=programs)

    def keeping_tables(self) -> AbstractContextManager[list[Tensor]]:
        """Collect the tables that are used while the context lasts."""
        return self._tables.keeping()

    def filling_tables(self) -> AbstractContextManager[None]:
        """Fill tables that are made while the context lasts when it ends."""
        return self._tables.filling()


class _How(NamedTuple):
    """What the node is told that is no tensor."""

    ops: TritonOps
    launch: _Launch
    dtype: torch.dtype


class _Fused(torch.autograd.Function):
    """As the node of ``autoround/core/rounding.py``, for several tensors.

    parts: weight, offset, min_scale and max_scale of each tensor in turn.
    """

    @staticmethod
    def forward(ctx: Any, how: _How, *parts: Tensor) -> tuple[Tensor, ...]:
        ops, launch, dtype = how
        out = torch.empty(sum(launch.groups) * launch.width, dtype=dtype, device=parts[0].device)
        ops.start(kernels.fake_quantize, launch, out)
        ctx.save_for_backward(*parts)
        ctx.how = how
        pieces = launch.cut(out, launch.width)
        return tuple(p.view(w.shape) for p, w in zip(pieces, parts[::4], strict=True))

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator, unused-ignore]
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        parts = ctx.saved_tensors
        ops, launch, _ = ctx.how
        upstream = [grad.contiguous() for grad in grads]
        if not _aligned(*(grad.data_ptr() for grad in upstream)):
            # Gradients come from torch's own allocations, which may begin anywhere.
            launch = launch._replace(aligned=False)
        total, device = sum(launch.groups), parts[0].device
        with_range = any(ctx.needs_input_grad[number] for number in _range_numbers(len(grads)))
        by_offset = torch.empty(total * launch.width, device=device)
        # A pointer must be there even where nothing is written.
        by_lo, by_hi = (torch.empty(total if with_range else 1, device=device) for _ in range(2))
        ops.start(
            kernels.backward,
            launch,
            ops.addresses(upstream),
            *(by_offset, by_lo, by_hi),
            constants={"RANGE": with_range, "GRAD": _TYPES[upstream[0].dtype]},
        )
        offsets = launch.cut(by_offset, launch.width)
        ends = [launch.cut(ends, 1) for ends in (by_lo, by_hi)] if with_range else []
        grads_in: list[Tensor | None] = [None]
        for number, weight in enumerate(parts[::4]):
            grads_in += [None, offsets[number].view(weight.shape)]
            shape = (*weight.shape[:2], 1)
            grads_in += [end[number].view(shape) for end in ends] or [None, None]
        return tuple(grads_in)


def _lowest_zero(grid: Grid) -> int:
    """Return the least zero point; symmetric levels, whose one is fixed, do not read it."""
    return grid.levels.lowest_zero if isinstance(grid.levels, AsymmetricLevels) else 0


def _range_numbers(count: int) -> list[int]:
    """Return which inputs of the node are min_scale or max_scale."""
    return [1 + 4 * number + part for number in range(count) for part in (2, 3)]


def _firsts(counts: Sequence[int]) -> tuple[list[int], int]:
    """Return where each of some runs begins when they follow each other, and their sum."""
    firsts, total = [], 0
    for count in counts:
        firsts.append(total)
        total += count
    return firsts, total


def _aligned(*numbers: int) -> bool:
    """Tell whether vectors can be read from these addresses, and are as long as that."""
    return all(number % ALIGNED == 0 for number in numbers)
