"""An accelerator that is none: the toy device of the tests, with recordings and our operations.

What it cannot tell is time. What a recording holds is noted operation by operation and done again
when it is played, with the tensors it was made of, as a graph of a real device does it; what waits
for the device cannot be recorded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from typing import Any

import torch
from counting import Counter, Mode, tensors_of
from torch import Tensor
from torch.autograd.function import once_differentiable

from autoround.core.gptq import ColumnBlock
from autoround.core.grids.grid import Grid
from autoround.core.grids.levels import IntegerLevels
from autoround.core.grids.scales import Half, Nested
from autoround.core.ops import TorchOps
from autoround.core.rounding import Rounding
from autoround.core.search import CHUNK_ELEMENTS
from autoround.core.search_nested import PlainStages, search_nested
from autoround.core.signsgd import SignState
from autoround.device.protocol import Download, Memory, Speed, Step, Upload, WideProduct
from autoround.device.runtime import TorchRuntime
from autoround_backends._search_layout import fits_layout, kernels_know
from autoround_backends._streamed import Recorded, Recording

#: Elements that plain torch searches at a time in place of a kernel: all that fit a test's memory.
TOY_CHUNK = 1 << 22


class ToyOps(TorchOps):
    """Plain torch, counted as the kernels that do its work on a device that has Triton."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._tables: set[tuple[int, ...]] = set()
        self._stages = ToyStages(counter)
        self._unfilled: int | None = None

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
        if not kernels_know(levels, scales) or not fits_layout(groups, importance, scales):
            return super().search_scales(groups, importance, levels, scales=scales, chunk=chunk)
        if isinstance(scales, Nested):
            return search_nested(groups, importance, levels, scales=scales, stages=self._stages)
        return self._stages.search_grid(groups, importance, levels)

    def fake_quantize_all(
        self,
        weights: Sequence[Tensor],
        roundings: Sequence[Rounding],
        *,
        grids: Sequence[Grid],
        dtype: torch.dtype,
    ) -> list[Tensor]:
        """Round the tensors of a block to their grids and back, differentiably."""
        parts = [t for w, r in zip(weights, roundings, strict=True) for t in (w, *r)]
        self._find_table([*parts, *(grid.lo for grid in grids)])
        how = _How(self, self._counter.mode, tuple(grids), dtype)
        return list(_Fused.apply(how, *parts))  # type: ignore[no-untyped-call]

    def plain_fake_quantize(self, parts: Sequence[Tensor], how: _How) -> list[Tensor]:
        """Do what the kernel does by plain torch; parts: weight and rounding of each in turn."""
        rounded = []
        for number, grid in enumerate(how.grids):
            weight, *rounding = parts[4 * number : 4 * number + 4]
            rounded.append(
                super().fake_quantize(weight, Rounding(*rounding), grid=grid, dtype=how.dtype)
            )
        return rounded

    def quantize_all(
        self, weights: Sequence[Tensor], roundings: Sequence[Rounding], *, grids: Sequence[Grid]
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Round the tensors of a block to their grids for good."""
        self._find_table([t for w, r in zip(weights, roundings, strict=True) for t in (w, *r)])
        mode = self._counter.mode
        with mode.kernels("quantize", kinds=kinds_of(grids, weights), tensors=len(weights)):
            return super().quantize_all(weights, roundings, grids=grids)

    def sign_step(
        self, params: Sequence[Tensor], grads: Sequence[Tensor], *, state: SignState
    ) -> SignState:
        """Move parameters against the signs of their gradients, in place."""
        if not params:
            return super().sign_step(params, grads, state=state)
        self._find_table([*params, *grads])
        with self._counter.mode.kernels("sign_step", kinds=1, tensors=len(params)):
            return super().sign_step(params, grads, state=state)

    def sign_step_by(self, params: Sequence[Tensor], grads: Sequence[Tensor], lr: Tensor) -> None:
        """Move parameters against the signs of their gradients at a rate of the device."""
        if params:
            self._find_table([*params, *grads])
            with self._counter.mode.kernels("sign_step", kinds=1, tensors=len(params)):
                super().sign_step_by(params, grads, lr)

    @contextmanager
    def filling_tables(self) -> Iterator[None]:
        """Fill tables that a recording asks for when it is made."""
        self._unfilled = 0
        try:
            yield
        finally:
            unfilled, self._unfilled = self._unfilled, None
        self._counter.mode.launch(unfilled or 0)

    def gptq_block(self, block: ColumnBlock) -> tuple[Tensor, Tensor]:
        """Round the columns of a block in turn."""
        with self._counter.mode.kernels("gptq_block", kinds=1, tensors=1):
            return super().gptq_block(block)

    def _find_table(self, tensors: Sequence[Tensor]) -> None:
        """Count the copy of a table of addresses, unless one of the same is on the device."""
        table = tuple(_address(tensor) for tensor in tensors)
        mode = self._counter.mode
        if table not in self._tables:
            self._tables.add(table)
            if self._unfilled is not None:
                self._unfilled += 1
                return
            if mode.recording is not None:
                mode.wait("a table of addresses from the host")
            # From pinned memory, for which nothing waits.
            mode.launch()


class ToyStages:
    """The search of every group by itself, counted as a kernel for each of its parts."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._plain = PlainStages(TOY_CHUNK)
        self._ladders: set[int] = set()

    def search_grid(self, groups: Tensor, importance: Tensor | None, levels: IntegerLevels) -> Grid:
        """Search scales of one float16 a group, and zero points."""
        self._find_ladder(levels.bits)
        with self._counter.mode.kernels("search", kinds=1, tensors=1):
            return self._plain.search_grid(groups, importance, levels)

    def fit_minima(self, groups: Tensor, importance: Tensor | None, levels: IntegerLevels) -> Grid:
        """Search scales and minima."""
        self._find_ladder(-levels.bits)
        with self._counter.mode.kernels("fit_minima", kinds=1, tensors=1):
            return self._plain.fit_minima(groups, importance, levels)

    def correct(self, groups: Tensor, importance: Tensor | None, grid: Grid) -> Grid:
        """Round a grid to its super-blocks, and try the neighbours of their integers."""
        with self._counter.mode.kernels("correct", kinds=1, tensors=1):
            return self._plain.correct(groups, importance, grid)

    def _find_ladder(self, ladder: int) -> None:
        """Count the copy of a ladder's rungs, unless they are on the device."""
        if ladder not in self._ladders:
            self._ladders.add(ladder)
            self._counter.mode.wait("the rungs of a ladder from the host")
            self._counter.mode.launch()


class _How:
    """What the node is told that is no tensor."""

    def __init__(self, ops: ToyOps, mode: Mode, grids: tuple[Grid, ...], dtype: Any) -> None:
        self.ops, self.mode, self.grids, self.dtype = ops, mode, grids, dtype


class _Fused(torch.autograd.Function):
    """One node for all tensors, as our kernels have it."""

    @staticmethod
    def forward(ctx: Any, how: _How, *parts: Tensor) -> tuple[Tensor, ...]:
        kinds = kinds_of(how.grids, parts[::4])
        with how.mode.kernels("fake_quantize", kinds=kinds, tensors=len(how.grids)):
            rounded = how.ops.plain_fake_quantize(parts, how)
        ctx.save_for_backward(*parts)
        ctx.how = how
        return tuple(rounded)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator, unused-ignore]
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        how, parts = ctx.how, ctx.saved_tensors
        kinds = kinds_of(how.grids, parts[::4])
        wanted = [n for n, need in enumerate(ctx.needs_input_grad[1:]) if need]
        with how.mode.kernels("backward", kinds=kinds, tensors=len(how.grids)):
            leaves = [part.detach() for part in parts]
            for number in wanted:
                leaves[number].requires_grad_()
            with torch.enable_grad():
                rounded = how.ops.plain_fake_quantize(leaves, how)
            by_part = torch.autograd.grad(rounded, [leaves[number] for number in wanted], grads)
            del leaves, rounded  # a kernel has none of it
        gradients: list[Tensor | None] = [None] * (1 + len(parts))
        for number, gradient in zip(wanted, by_part, strict=True):
            gradients[1 + number] = gradient
        return tuple(gradients)


def kinds_of(grids: Sequence[Grid], weights: Sequence[Tensor]) -> int:
    """Return how many launches tensors need: those of one group size and symmetry share one."""
    kinds = {(w.shape[-1], g.levels.fixed_zero) for w, g in zip(weights, grids, strict=True)}
    return len(kinds)


def _address(tensor: Any) -> int:
    """Return where the numbers of a toy tensor lie."""
    address: int = getattr(tensor, "raw", tensor).data_ptr()
    return address


class Tape:
    """A recording: operations in their order, with the tensors that they were done with."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self.operations: list[Any] = []
        self.launches = 0

    def replay(self) -> None:
        """Do everything again, to the tensors that it was done to."""
        mode = self._counter.mode
        mode.launch()
        mode.here.in_graphs += self.launches
        with mode.silence(), torch.no_grad():
            for op, args, kwargs, result in self.operations:
                if op.is_view:
                    continue
                again = op(*args, **kwargs)
                for to, new in zip(tensors_of(result), tensors_of(again), strict=True):
                    if to is not new:
                        to.copy_(new)


class ToyDownload:
    """A copy to pinned memory, there when another one is queued behind it and not before.

    Waiting for one that has work behind it costs the device nothing; for the last one it does.
    """

    def __init__(self, runtime: ToyRuntime, copy: Tensor) -> None:
        self._runtime, self._copy = runtime, copy
        runtime.downloads += 1
        self._number = runtime.downloads

    def ready(self) -> bool:
        """Tell whether the device has got that far."""
        return self._number < self._runtime.downloads

    def result(self) -> Tensor:
        """Return the copy; the host waits where nothing is queued behind it."""
        if not self.ready():
            self._runtime.counter.mode.wait("a number that is not there yet")
        return self._copy


class ToyStream:
    """A queue in which everything is done at once."""

    def wait_stream(self, other: object) -> None:
        """Wait for nothing."""


class ToyModule:
    """The part of torch's module for a kind of device that recordings are made with."""

    def __init__(self, counter: Counter) -> None:
        self._counter, self._stream = counter, ToyStream()

    def Stream(self, device: torch.device) -> ToyStream:  # noqa: N802 (torch's own name)
        """Return the one queue there is."""
        return self._stream

    def stream(self, stream: object) -> Any:
        """Queue work there: change nothing."""
        return nullcontext()

    def device(self, device: torch.device) -> Any:
        """Make a device the current one: there is one."""
        return nullcontext()

    def Event(self) -> Any:  # noqa: N802 (torch's own name)
        """Return nothing: downloads of the device are told of by the counter."""

    def empty_cache(self) -> None:
        """Release nothing."""

    def current_stream(self, device: torch.device) -> ToyStream:
        """Return the queue."""
        return self._stream

    @contextmanager
    def graph(self, graph: Tape, stream: object = None) -> Iterator[None]:
        """Note operations while they are done."""
        mode = self._counter.mode
        mode.recording, mode.recorded = graph.operations, 0
        try:
            yield
        finally:
            graph.launches = mode.recorded
            mode.recording = None


class ToyRuntime(TorchRuntime):
    """The toy device as an accelerator: memory of its own, copies beside the work, recordings.

    memory_bytes: of the device.
    """

    def __init__(self, counter: Counter, device: torch.device, *, memory_bytes: int) -> None:
        super().__init__("toy", device)
        self.counter, self._memory = counter, memory_bytes
        self.refusals: list[str] = []
        self.downloads = 0

    @cached_property
    def ops(self) -> ToyOps:
        """Plain torch that counts as kernels."""
        return ToyOps(self.counter)

    def speeds(self) -> tuple[Speed, ...]:
        """Say that 16 bit is fast."""
        return (Speed(torch.bfloat16, 4e14), Speed(torch.float32, 5e13))

    def memory(self) -> Memory:
        """Return what was given."""
        return Memory(self._memory, self._memory)

    def upload(self, tensors: Mapping[str, Tensor]) -> Upload:
        """Copy as from pinned memory, for which nothing waits."""
        self.counter.beside = True
        try:
            return super().upload(tensors)
        finally:
            self.counter.beside = False

    def download(self, tensor: Tensor) -> Download:
        """Copy as to pinned memory, behind what is queued."""
        self.counter.beside = True
        try:
            return ToyDownload(self, tensor.detach().to("cpu", copy=True))
        finally:
            self.counter.beside = False

    def wide_product(self) -> WideProduct:
        """Return a product of 16-bit operands with sums in float32, which counts as one launch."""

        def multiply(left: Tensor, right: Tensor) -> Tensor:
            mode = self.counter.mode
            mode.launch()
            with mode.silence():
                return left.float() @ right.float()

        return multiply

    def capture(self, step: Step, examples: Sequence[Tensor]) -> Step:
        """Record a step; the step itself where that fails."""
        try:
            return Recorded(
                step,
                examples,
                device=self.device,
                module=ToyModule(self.counter),
                graph=Tape(self.counter),
                how=Recording(around=self.ops.filling_tables),
            )
        except RuntimeError as error:
            self.refusals.append(str(error).splitlines()[0][:200])
            return step
