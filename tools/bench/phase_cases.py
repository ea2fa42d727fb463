"""The phases around the steps: what each does, on random tensors in a block's shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from device_clock import as_figures, measure
from torch import Tensor

from autoround.core import signsgd
from autoround.core.gptq import InverseCholesky, gptq_offsets, inverse_cholesky
from autoround.core.grids.grid import min_max_grid, to_groups
from autoround.core.grids.levels import integer_levels
from autoround.core.rounding import Rounding, dense_weight, initial_rounding
from autoround.core.rtn import Target, matrix_from
from autoround.core.search import (
    CHUNK_ELEMENTS,
    device_chunk,
    importance_groups,
    search_grid,
)
from autoround.device.protocol import Runtime
from autoround.model.importance import Importance
from autoround.session.packed_weights import pack_weights
from autoround.types import LayerPlan, QuantizedTensor, Scheme

#: The layout that symmetric weights are packed in by default.
LAYOUT = "auto_round:auto_gptq"
#: A case: its name, and what returns the figures of its row.
Case = tuple[str, Callable[[], Mapping[str, Any]]]


@dataclass(frozen=True)
class Shape:
    """Sizes of a block, and of the batches that go through it."""

    hidden: int
    inner: int
    heads: int
    kv_heads: int
    group: int
    batch: int
    seqlen: int
    samples: int

    @property
    def matrices(self) -> dict[str, tuple[int, int]]:
        """(out, in) of the block's linear layers."""
        narrow = self.hidden // self.heads * self.kv_heads
        return {
            "q": (self.hidden, self.hidden),
            "k": (narrow, self.hidden),
            "v": (narrow, self.hidden),
            "o": (self.hidden, self.hidden),
            "gate": (self.inner, self.hidden),
            "up": (self.inner, self.hidden),
            "down": (self.hidden, self.inner),
        }

    @property
    def tokens(self) -> int:
        """Tokens of a batch."""
        return self.batch * self.seqlen


BLOCKS: dict[str, Shape] = {
    "llama-3.1-8b": Shape(4096, 14336, 32, 8, 128, 8, 2048, 128),
    "tiny": Shape(64, 128, 4, 2, 32, 2, 16, 4),
}


@dataclass
class Block:
    """Tensors of a block, made when they are first needed."""

    shape: Shape
    runtime: Runtime

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.runtime.device

    @cached_property
    def half(self) -> torch.dtype:
        """The dtype that blocks run in on an accelerator."""
        return torch.bfloat16

    def draw(self, *sizes: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Draw normal numbers on the device."""
        return torch.randn(sizes, device=self.device, dtype=dtype)

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """Weights by layer, as a checkpoint holds them."""
        matrices = self.shape.matrices
        return {n: self.draw(*sizes, dtype=self.half) * 0.02 for n, sizes in matrices.items()}

    def target(self, name: str) -> Target:
        """Return a layer's groups on their min-max grid."""
        groups = to_groups(self.weights[name], self.shape.group)
        grid = min_max_grid(groups, integer_levels(4, sym=True))
        return Target(groups, grid, self.shape.matrices[name])

    @cached_property
    def targets(self) -> dict[str, Target]:
        """All layers as targets."""
        return {name: self.target(name) for name in self.shape.matrices}

    def factor(self, columns: int) -> InverseCholesky:
        """Return a factor of a Hessian that few tokens made."""
        inputs = self.draw(2 * columns, columns)
        factor = inverse_cholesky(inputs.t() @ inputs)
        assert factor is not None
        return factor

    @cached_property
    def layers(self) -> dict[str, QuantizedTensor]:
        """The layers quantized, on the device."""
        quantized = {}
        for name, target in self.targets.items():
            rounding = initial_rounding(target.groups)
            parts = self.runtime.ops.quantize(target.groups, rounding, grid=target.grid)
            codes, scale, zero, _ = matrix_from(target, rounding, parts)
            quantized[name] = QuantizedTensor(codes, scale, zero, Scheme(4, self.shape.group, True))
        return quantized

    def on_host(self) -> dict[str, QuantizedTensor]:
        """Return the quantized layers in the host's memory."""
        return {
            name: QuantizedTensor(x.codes.cpu(), x.scale.cpu(), x.zero.cpu(), x.scheme)
            for name, x in self.layers.items()
        }

    def time(
        self,
        call: Callable[[], object],
        *,
        turns: int = 5,
        others: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Time a call on the device; returns its figures with others behind them."""
        return as_figures(measure(call, self.device, turns=turns), others)


def cases(block: Block) -> Iterator[Case]:
    """Yield the phases around the steps, in the order of a run."""
    yield "launch rate", lambda: _launch_rate(block)
    yield from _copies(block)
    for columns in sorted({inner for _, inner in block.shape.matrices.values()}):
        yield f"products of inputs, {columns}", lambda n=columns: _products(block, n)  # type: ignore[misc]
        if block.runtime.own_memory:
            yield f"products in 16 bit, {columns}", lambda n=columns: _short(block, n)  # type: ignore[misc]
        yield f"factor, {columns}", lambda n=columns: _factor(block, n)  # type: ignore[misc]
    for name in ("q", "k", "gate", "down"):
        yield f"search, {name}", lambda n=name: _search(block, n)  # type: ignore[misc]
        yield f"columns, {name}", lambda n=name: _columns(block, n)  # type: ignore[misc]
    yield "fake quantize", lambda: _rounding(block, backward=False)
    yield "fake quantize and its backward", lambda: _rounding(block, backward=True)
    yield "sign step", lambda: _sign_step(block)
    yield "quantize for good", lambda: _quantize(block)
    yield from _packing(block)


def _launch_rate(block: Block) -> dict[str, Any]:
    """Time a thousand launches that do nothing much: what the host can start in a second."""
    one = torch.zeros(1, device=block.device)

    def launch() -> None:
        for _ in range(1000):
            one.add_(1.0)

    figures = block.time(launch)
    return {**figures, "launches_a_second": round(1000 / figures["wall_s"])}


def _copies(block: Block) -> Iterator[Case]:
    """Yield copies of an activation stream between device and host."""
    shape = block.shape
    size = (shape.samples, shape.seqlen, shape.hidden)

    def copy(way: str) -> dict[str, Any]:
        stream = torch.zeros(size, dtype=block.half, device=block.device)
        host = torch.zeros(size, dtype=block.half)
        if "pinned" in way and block.runtime.own_memory:
            host = host.pin_memory()
        calls: dict[str, Callable[[], object]] = {
            "stream to new memory of the host": lambda: stream.cpu(),
            "stream to pinned memory": lambda: host.copy_(stream, non_blocking=True),
            "stream from pinned memory": lambda: stream.copy_(host, non_blocking=True),
            "sum of a stream": lambda: stream.view(torch.int64).sum(),
            "batch gathered by indices of the host": lambda: stream[torch.arange(shape.batch)],
        }
        return block.time(calls[way], turns=3, others={"gigabytes": stream.nbytes / 1e9})

    for way in (
        "stream to new memory of the host",
        "stream to pinned memory",
        "stream from pinned memory",
        "sum of a stream",
        "batch gathered by indices of the host",
    ):
        yield way, lambda way=way: copy(way)  # type: ignore[misc]


def _products(block: Block, columns: int) -> dict[str, Any]:
    """Time X'X of a batch as runs sum it."""
    inputs = block.draw(1, block.shape.tokens, columns, dtype=block.half)
    importance = Importance(hessians=True)

    def add() -> None:
        importance.mask(None)  # the same tensor again would be taken for the same layer's
        importance.add("layer", inputs)

    teraflop = 2 * block.shape.tokens * columns**2 / 1e12
    return block.time(add, turns=3, others={"teraflop": teraflop})


def _short(block: Block, columns: int) -> dict[str, Any]:
    """Time X'X with factors of 16 bits and sums in float32, which torch has on some devices."""
    inputs = block.draw(block.shape.tokens, columns, dtype=block.half)
    total = torch.zeros((columns, columns), device=block.device)
    multiply: Any = torch.addmm
    wanted = inputs.float().t() @ inputs.float()
    short = multiply(total, inputs.t(), inputs, out_dtype=torch.float32)
    apart = float((short - wanted).norm() / wanted.norm())
    call = lambda: multiply(total, inputs.t(), inputs, out_dtype=torch.float32)  # noqa: E731
    return block.time(call, turns=3, others={"relative_difference": apart})


def _factor(block: Block, columns: int) -> dict[str, Any]:
    inputs = block.draw(2 * columns, columns)
    hessian = inputs.t() @ inputs
    return block.time(lambda: inverse_cholesky(hessian), turns=3)


def _search(block: Block, name: str) -> dict[str, Any]:
    target = block.target(name)
    columns = target.shape[-1]
    power = block.draw(columns).square()
    weights = importance_groups(power, target.groups, in_features=columns)
    levels = integer_levels(4, sym=True)
    chunk = CHUNK_ELEMENTS
    if block.runtime.own_memory:
        chunk = device_chunk(block.runtime.memory().total)
    call = lambda: search_grid(target.groups, weights, levels, chunk=chunk)  # noqa: E731
    return block.time(call, turns=1, others={"chunk": chunk})


def _columns(block: Block, name: str) -> dict[str, Any]:
    target = block.target(name)
    factor = block.factor(target.shape[-1])
    round_block = block.runtime.ops.gptq_block
    return block.time(lambda: gptq_offsets(target, factor, round_block=round_block), turns=3)


def _parts(block: Block) -> tuple[list[Target], list[Rounding]]:
    targets = list(block.targets.values())
    return targets, [initial_rounding(target.groups) for target in targets]


def _rounding(block: Block, *, backward: bool) -> dict[str, Any]:
    """Time fake-quantize of all layers at once; with gradients of all of its parts."""
    targets, roundings = _parts(block)
    parts = [part.requires_grad_() for rounding in roundings for part in rounding]
    upstream = [torch.ones_like(target.groups, dtype=block.half) for target in targets]

    def turn() -> None:
        with torch.set_grad_enabled(backward):
            rounded = block.runtime.ops.fake_quantize_all(
                [target.groups for target in targets],
                roundings,
                grids=[target.grid for target in targets],
                dtype=block.half,
            )
        if backward:
            torch.autograd.grad(rounded, parts, upstream)

    return block.time(turn)


def _sign_step(block: Block) -> dict[str, Any]:
    _, roundings = _parts(block)
    offsets = [rounding.offset for rounding in roundings]
    grads = [torch.randn_like(offset) for offset in offsets]
    state = signsgd.init(1e-3, 200)
    return block.time(lambda: block.runtime.ops.sign_step(offsets, grads, state=state))


def _quantize(block: Block) -> dict[str, Any]:
    targets, roundings = _parts(block)

    def turn() -> None:
        block.runtime.ops.quantize_all(
            [target.groups for target in targets],
            roundings,
            grids=[target.grid for target in targets],
        )

    return block.time(turn)


def _packing(block: Block) -> Iterator[Case]:
    """Yield what follows the steps: on the host as runs do it, and on the device."""
    places: dict[str, Callable[[], dict[str, QuantizedTensor]]] = {
        "host": block.on_host,
        "device": lambda: block.layers,
    }
    yield "codes to the host", lambda: block.time(block.on_host, turns=3)
    for where, layers_of in places.items():

        def pack(layers_of: Any = layers_of) -> dict[str, Any]:
            layers = layers_of()
            plans = {n: LayerPlan(n, x.codes.shape, x.scheme) for n, x in layers.items()}
            return block.time(lambda: pack_weights(layers, plans, LAYOUT), turns=3)

        def dense(layers_of: Any = layers_of) -> dict[str, Any]:
            layers = layers_of()
            return block.time(lambda: [dense_weight(x) for x in layers.values()], turns=3)

        yield f"packed on the {where}", pack
        yield f"dequantized on the {where}", dense
