"""Bytes that are live on the toy device: counted when memory is taken, until it is given back.

What kernels of ours, and attention, do in one launch has no temporaries of its own: what plain
torch takes in their place is not counted. A recording's memory is that of its step at its peak,
taken when it is made and given back with it, as a graph's pool is.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from counting import Counter
from parts import OTHER, Part
from torch import Tensor
from torch.autograd.function import once_differentiable
from toy_runtime import Tape, ToyModule, ToyRuntime

from autoround.device.protocol import Step
from autoround_backends._streamed import Recorded, Recording

#: Least part of the peak by which it grows before live tensors are listed anew.
NOTABLE = 0.002


class LiveBytes:
    """Counts live bytes, their peak in all and by part, and where they were made.

    listing: whether live bytes are listed by place at the peak, which takes time.
    """

    def __init__(self, *, listing: bool = False) -> None:
        self.live = self.peak = 0
        self.by_part: dict[str, int] = defaultdict(int)
        self.at_peak: dict[str, int] = {}
        self._listing, self._listed = listing, 0
        self._places: dict[int, tuple[str, int]] = {}
        self._parts: list[str] = []
        self._hidden = 0
        self._lock = threading.RLock()
        #: Storages that are no part of the count, while they live.
        self._uncounted: set[int] = set()
        self._known: dict[int, int] = {}
        self._serial = 0

    def watch(self, raw: Tensor) -> None:
        """Note the memory of a tensor, if it is new."""
        storage = raw.untyped_storage()
        address = storage._cdata
        with self._lock:
            if address in self._known:
                return
            size = storage.nbytes()
            self._known[address] = size
            weakref.finalize(storage, self._give_back, address, size)
            if self._hidden < 0:
                self._uncounted.add(address)
                return
            self._take(address, size)

    def _take(self, address: int, size: int) -> None:
        self.live += size
        if self._listing:
            self._places[address] = (_place(), size)
        if not self._hidden:
            self.note()

    def _give_back(self, address: int, size: int) -> None:
        with self._lock:
            self._known.pop(address, None)
            self._places.pop(address, None)
            if address in self._uncounted:
                self._uncounted.discard(address)
            else:
                self.live -= size

    def note(self) -> None:
        """Note the peak."""
        self.peak = max(self.peak, self.live)
        part = self._parts[-1] if self._parts else OTHER
        self.by_part[part] = max(self.by_part[part], self.live)
        if self._listing and self.live > self._listed * (1 + NOTABLE):
            self._listed = self.live
            places: dict[str, int] = defaultdict(int)
            for place, size in list(self._places.values()):
                places[place] += size
            self.at_peak = dict(places)

    @contextmanager
    def one_kernel(self) -> Iterator[None]:
        """Count no temporaries while the context lasts, only what is left of it."""
        self._hidden += 1
        try:
            yield
        finally:
            self._hidden -= 1
            if not self._hidden:
                self.note()

    @contextmanager
    def in_pool(self) -> Iterator[None]:
        """Count nothing that is made while the context lasts: it lies in memory that is counted."""
        before, self._hidden = self._hidden, -(10**6)
        try:
            yield
        finally:
            self._hidden = before

    def take_pool(self, size: int, owner: object) -> None:
        """Count memory until its owner is gone."""
        self._serial -= 1
        with self._lock:
            self._known[self._serial] = size
            self._take(self._serial, size)
            weakref.finalize(owner, self._give_back, self._serial, size)

    def enter(self, part: Part) -> None:
        """Begin a part; those of other threads touch the host alone."""
        if threading.current_thread() is threading.main_thread():
            self._parts.append(part.name)
            self.note()

    def leave(self, part: Part) -> None:
        """End a part."""
        if threading.current_thread() is threading.main_thread():
            self._parts.pop()


def _place() -> str:
    """Return the innermost line of the package that asks for memory, and what called it."""
    frame: Any = sys._getframe(1)
    lines: list[str] = []
    while frame is not None and len(lines) < 2:
        name = frame.f_code.co_filename
        if "/autoround/" in name or "/transformers/" in name:
            lines.append(f"{name.rpartition('/')[2]}:{frame.f_lineno} {frame.f_code.co_name}")
        frame = frame.f_back
    return " < ".join(lines) or "backward"


class LiveRuntime(ToyRuntime):
    """The toy device with a count of its live bytes."""

    def __init__(
        self, live: LiveBytes, counter: Counter, device: torch.device, *, memory_bytes: int
    ) -> None:
        super().__init__(counter, device, memory_bytes=memory_bytes)
        self.live = live

    def peak_bytes(self) -> int:
        """Return the peak so far."""
        return self.live.peak

    def capture(self, step: Step, examples: Sequence[Tensor]) -> Step:
        """Record a step, and count what a graph's pool takes."""
        live, taken = self.live, [0]

        def measure(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
            if self.counter.mode.recording is not None:
                return step(tensors)
            start, peak = live.live, live.peak
            live.peak = 0
            try:
                return step(tensors)
            finally:
                taken[0] = max(taken[0], live.peak - start)
                live.peak = max(peak, live.peak)

        tape = _Pooled(self.counter, live, taken)
        try:
            return Recorded(
                measure,
                examples,
                device=self.device,
                module=_LiveModule(self.counter, live),
                graph=tape,
                how=Recording(around=self.ops.filling_tables),
            )
        except RuntimeError as error:
            self.refusals.append(str(error).splitlines()[0][:200])
            return step


class _Pooled(Tape):
    """A recording whose tensors lie in a pool."""

    def __init__(self, counter: Counter, live: LiveBytes, taken: list[int]) -> None:
        super().__init__(counter)
        self.live, self.taken = live, taken

    def replay(self) -> None:
        """Do everything again, in the pool."""
        with self.live.in_pool():
            super().replay()


class _LiveModule(ToyModule):
    def __init__(self, counter: Counter, live: LiveBytes) -> None:
        super().__init__(counter)
        self._live = live

    @contextmanager
    def graph(self, graph: Tape, stream: object = None) -> Iterator[None]:
        """Note operations while they are done; their memory is the pool's."""
        assert isinstance(graph, _Pooled)
        self._live.take_pool(graph.taken[0], graph)
        with self._live.in_pool(), super().graph(graph, stream):
            yield


class _Attention(torch.autograd.Function):
    """Attention as one kernel: it keeps queries, keys, values, its result and a number a row."""

    @staticmethod
    def forward(
        ctx: Any, live: LiveBytes, options: dict[str, Any], q: Tensor, k: Tensor, v: Tensor
    ) -> Tensor:
        with live.one_kernel():
            out = _attend(q, k, v, options)
            # As kernels lay it out: by tokens, so that heads are joined without a copy.
            out = out.transpose(1, 2).contiguous().transpose(1, 2)
            rows = torch.zeros(q.shape[:-1], device=q.device)
        ctx.save_for_backward(q, k, v, out, rows)
        ctx.live, ctx.options = live, options
        return out

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator, unused-ignore]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, _, _ = ctx.saved_tensors
        # FlashAttention 2 sums the queries' gradients in float32, and has those of keys and values
        # for every head before they are summed.
        sums = torch.empty(q.shape, device=q.device)
        spread = [torch.empty(q.shape, device=q.device, dtype=q.dtype) for _ in range(2)]
        with ctx.live.one_kernel():
            leaves = [t.detach().requires_grad_() for t in (q, k, v)]
            with torch.enable_grad():
                out = _attend(leaves[0], leaves[1], leaves[2], ctx.options)
            grads = torch.autograd.grad(out, leaves, grad)
            del out, leaves
        ctx.live.note()
        del sums, spread
        return (None, None, *grads)


def _attend(q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]) -> Tensor:
    repeats = q.shape[1] // k.shape[1]
    k, v = (t.repeat_interleave(repeats, dim=1) for t in (k, v))
    scores = (q @ k.transpose(-2, -1)).float() * (options.get("scale") or q.shape[-1] ** -0.5)
    mask = options.get("attn_mask")
    if options.get("is_causal"):
        ones = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device)
        mask = ones.tril(scores.shape[-1] - scores.shape[-2])
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, float("-inf"))
    elif mask is not None:
        scores = scores + mask
    attended: Tensor = scores.softmax(-1).to(q.dtype) @ v
    return attended


def register_kernels(toy_device: Any) -> torch.library.Library:
    """Have done in one kernel what torch takes apart for kinds of devices it does not know.

    Lasts as long as what is returned.
    """
    library = torch.library.Library("aten", "IMPL")
    silu_backward = torch.ops.aten.silu_backward.default

    def backward(grad: Tensor, x: Tensor) -> Tensor:
        gradient: Tensor = toy_device.run(silu_backward, grad, x)
        return gradient

    library.impl("silu_backward", backward, "PrivateUse1")
    return library


@contextmanager
def attention_in_one_kernel(live: LiveBytes) -> Iterator[None]:
    """Have attention on the toy device take the memory that a kernel takes."""
    functional: Any = torch.nn.functional
    plain = functional.scaled_dot_product_attention

    def attention(q: Tensor, k: Tensor, v: Tensor, *args: Any, **options: Any) -> Tensor:
        if q.device.type != "toy":
            result: Tensor = plain(q, k, v, *args, **options)
            return result
        options |= dict(zip(("attn_mask", "dropout_p", "is_causal"), args, strict=False))
        attended: Tensor = _Attention.apply(live, options, q, k, v)  # type: ignore[no-untyped-call]
        return attended

    functional.scaled_dot_product_attention = attention
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = plain
