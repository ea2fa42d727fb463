"""Packed products on a CPU by our C kernel, built at first use.

``native`` turns activations into integers of 16 bits, with a scale for every 128 of them at
most: closer than bfloat16 by far. ``native-int8`` uses 8 bits, as llama.cpp does; it costs
quality and is never chosen by itself.
"""

from __future__ import annotations

import ctypes
from functools import cached_property, lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from autoround.core.grids.levels import integer_levels
from autoround.device.kernels import Demand, Multiply, State
from autoround.device.protocol import Availability
from autoround.errors import DeviceError
from autoround.types import QuantizedTensor, Scheme
from autoround_backends import _cpu_layout, _native

_POINTER, _COUNT = ctypes.c_void_p, ctypes.c_int64
#: Kinds of elements, as in the C file.
KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
#: Elements of x and the result that are converted by torch around the kernel.
THROUGH = {torch.float16: torch.float32, torch.float64: torch.float32}
#: Bytes of an unpacked tile in products of many rows: half a second-level cache or so, and twice
#: as many where products take so long that they fetch it again.
TILE_BYTES, MANY = 1 << 20, 256
#: Groups wider than this could overflow the sums of a chunk; and no group is.
MOST_INPUTS = 1 << 24


class _Layer(ctypes.Structure):
    """``Layer`` of the C file."""

    _fields_ = (
        *((name, _COUNT) for name in ("rows", "columns", "steps", "chunks", "groups")),
        *((name, _COUNT) for name in ("bits", "scale_kind", "middle")),
        *((name, _POINTER) for name in ("codes", "scale", "zero")),
        *((name, _POINTER) for name in ("chunk_steps", "chunk_group", "source", "bias")),
    )


class Turn(NamedTuple):
    """Seconds a row of x and a weight take, one way and by unpacking tiles."""

    packed: float
    tiled: float
    unpacking: float

    @property
    def rows(self) -> int:
        """From how many rows on unpacking is the faster way; none: a number out of reach."""
        if self.packed <= self.tiled * 1.05:
            return 1 << 62
        return max(16, int(self.unpacking / (self.packed - self.tiled)) + 1)


class NativeKernel:
    """Packed products in C; many rows at a time by torch on unpacked tiles where that wins."""

    devices = ("cpu",)
    reversible = True
    install = ""

    def __init__(self, *, wide: bool = True, options: tuple[str, ...] = ()) -> None:
        self.name = "native" if wide else "native-int8"
        self.rank = 50 if wide else -1
        self.timed = wide
        self._wide = wide
        self._options = options

    @cached_property
    def _built(self) -> _native.Native:
        built = _native.load(source=_native.LINEAR, options=self._options)
        if built.library is not None:
            built.library.packed_linear.argtypes = [
                *(_POINTER, _POINTER, _COUNT, _COUNT, _COUNT, _POINTER)
            ]
            built.library.packed_linear.restype = _COUNT
            built.library.unpack_blocks.argtypes = [_POINTER, *[_COUNT] * 3, _POINTER]
            built.library.unpack_blocks.restype = None
            built.library.lanes.restype = _COUNT
        return built

    @property
    def library(self) -> ctypes.CDLL:
        """The built functions.

        Raises:
            DeviceError: they cannot be built here.
        """
        if self._built.library is None:
            raise DeviceError(f"the kernel {self.name} cannot be built: {self._built.reason}")
        return self._built.library

    def probe(self) -> Availability:
        return Availability(self._built.library is not None, self._built.reason)

    def why_not(self, demand: Demand) -> str:
        if not demand.dtype.is_floating_point:
            return "for floating-point activations"
        return "" if demand.shape[1] < MOST_INPUTS else "its rows are too long"

    def pack(self, layer: QuantizedTensor, order: Tensor | None) -> State:
        return _cpu_layout.pack(layer, order, lanes=int(self.library.lanes()))

    def unpack(self, state: State, demand: Demand) -> QuantizedTensor:
        return _cpu_layout.unpack(state, demand)

    def bind(self, state: State, demand: Demand, bias: Tensor | None) -> Multiply:
        library = self.library
        layer, kept = describe(state, demand, bias)
        address, wide = ctypes.addressof(layer), int(self._wide)
        rows = demand.shape[0]
        # Looked up once: decoding calls this thousands of times a second.
        call, kinds, empty = library.packed_linear, KINDS, torch.empty
        float32, bfloat16 = torch.float32, torch.bfloat16

        def multiply(x: Tensor, _: object = (layer, kept)) -> Tensor:
            dtype, count = x.dtype, x.shape[0]
            if dtype is not float32 and dtype is not bfloat16:
                return multiply(x.to(THROUGH[dtype])).to(dtype)
            # Fewer rows are never worth the unpacking, and not worth the look-up.
            if count >= 16 and count >= self._switch(demand.scheme, dtype):
                return self._tiled(x, layer)
            if not x.is_contiguous():
                x = x.contiguous()
            out = empty((count, rows), dtype=dtype)
            # The function says no only where the C library has no memory for activations.
            if call(address, x.data_ptr(), kinds[dtype], count, wide, out.data_ptr()):
                raise MemoryError("no memory for the activations of a packed product")
            return out

        return multiply

    def _tiled(self, x: Tensor, layer: _Layer) -> Tensor:
        """Multiply with tiles of rows, each unpacked, used and overwritten."""
        lanes = int(self.library.lanes())
        size = 4 if x.dtype == torch.float32 else 2
        blocks = -(-layer.rows // lanes)
        budget = TILE_BYTES * (2 if x.shape[0] >= MANY else 1)
        step = max(1, budget // (size * layer.columns * lanes))
        # One tile for all: what was just multiplied with is in the cache, and is overwritten there.
        tile = torch.empty(step * lanes * layer.columns, dtype=x.dtype)
        out = torch.empty((x.shape[0], layer.rows), dtype=x.dtype)
        for first in range(0, blocks, step):
            count, start = min(step, blocks - first), first * lanes
            self.library.unpack_blocks(
                ctypes.addressof(layer), first, count, KINDS[x.dtype], tile.data_ptr()
            )
            end = min(start + count * lanes, layer.rows)
            weight = tile[: layer.columns * count * lanes].view(layer.columns, -1)
            torch.mm(x, weight[:, : end - start], out=out[:, start:end])
        if layer.bias:
            bias = (ctypes.c_float * layer.rows).from_address(layer.bias)
            out += torch.frombuffer(bias, dtype=torch.float32).to(out.dtype)
        return out

    def _switch(self, scheme: Scheme, dtype: torch.dtype) -> int:
        """Return from how many rows on tiles are faster."""
        return _turn(self, scheme.bits, dtype, torch.get_num_threads()).rows


@lru_cache(maxsize=64)
def _turn(kernel: NativeKernel, bits: int, dtype: torch.dtype, threads: int) -> Turn:
    """Time both ways for some milliseconds on a small layer."""
    import time

    rows, columns, many = 512, 1024, 32
    scheme = Scheme(bits, 128, True)
    rng = torch.Generator().manual_seed(0)
    levels = integer_levels(bits, sym=True)
    codes = torch.randint(0, levels.count, (rows, columns), generator=rng, dtype=torch.uint8)
    layer = QuantizedTensor(
        codes,
        torch.full((rows, columns // 128), 2**-10, dtype=torch.float16),
        torch.full((rows, columns // 128), levels.middle, dtype=torch.uint8),
        scheme,
    )
    state = kernel.pack(layer, None)
    struct, kept = describe(state, Demand((rows, columns), scheme, "cpu", dtype), None)
    x, out = torch.ones((many, columns), dtype=dtype), torch.empty((many, rows), dtype=dtype)
    tile = torch.empty((columns, rows), dtype=dtype)
    address, kind = ctypes.addressof(struct), KINDS[dtype]
    blocks = -(-rows // int(kernel.library.lanes()))

    # The least of four: other processes only ever make a turn longer.
    def best(turn: object) -> float:
        seconds = []
        for _ in range(4):
            started = time.perf_counter()
            turn()  # type: ignore[operator]
            seconds.append(time.perf_counter() - started)
        return min(seconds)

    turn = Turn(
        best(
            lambda: kernel.library.packed_linear(
                address, x.data_ptr(), kind, many, 1, out.data_ptr()
            )
        )
        / many,
        best(lambda: torch.mm(x, tile, out=out)) / many,
        best(lambda: kernel.library.unpack_blocks(address, 0, blocks, kind, tile.data_ptr())),
    )
    del kept
    return turn


def describe(
    state: State, demand: Demand, bias: Tensor | None
) -> tuple[_Layer, tuple[Tensor, ...]]:
    """Return a layer as the C functions take it, and the tensors it points into."""
    rows, columns = demand.shape
    zero, source = state["zero"], state.get("source")
    uniform = zero.dim() == 2
    # The structure has addresses alone; who binds it keeps these tensors alive.
    own_bias = None if bias is None else bias.detach().float().contiguous()
    tensors = [state[name] for name in ("codes", "scale", "chunk_steps", "chunk_group")]
    tensors += [t for t in (zero, source, own_bias) if t is not None]

    def at(tensor: Tensor | None) -> int | None:
        return None if tensor is None else tensor.data_ptr()

    layer = _Layer(
        rows=rows,
        columns=columns,
        steps=state["codes"].shape[1],
        chunks=len(state["chunk_steps"]),
        groups=state["scale"].shape[1],
        bits=demand.scheme.bits,
        scale_kind=KINDS[state["scale"].dtype],
        middle=int(zero[0, 0]) if uniform else 0,
        codes=at(state["codes"]),
        scale=at(state["scale"]),
        zero=None if uniform else at(zero),
        chunk_steps=at(state["chunk_steps"]),
        chunk_group=at(state["chunk_group"]),
        source=at(source),
        bias=at(own_bias),
    )
    return layer, tuple(tensors)


KERNEL = NativeKernel()
INT8 = NativeKernel(wide=False)
