"""The layout of ``_cpu_linear.c``: row blocks of so many lanes, codes in planes of bits.

Groups are padded to whole steps of 32 inputs and, with reordered inputs, gathered; ``source``
says which input stands where, -1 for padding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from autoround.device.kernels import Demand, group_of_input
from autoround.types import QuantizedTensor

STEP, QUAD = 32, 4
#: Inputs of a chunk, whose activations share a scale.
CHUNK = 128
#: Rows laid out at a time.
ROWS = 512
#: Size of a plane's pieces in bits, largest first.
PLANES = (8, 4, 2, 1)


def pack(layer: QuantizedTensor, order: Tensor | None, *, lanes: int) -> dict[str, Tensor]:
    """Lay a weight out for kernels of so many lanes.

    Args:
        layer: codes uint8 [out, in], scale and zero [out, groups].
        order: the group of each input, int64 [in]; None where groups follow each other.
        lanes: rows that the processor works on at a time.
    """
    rows, columns = layer.codes.shape
    groups = layer.scale.expand(rows, -1).shape[1]
    group = group_of_input(columns, layer.scheme.group_size, order=order, device=layer.codes.device)
    source, steps = _padded(group, groups)
    # Without padding or reordering the kernel reads inputs in their order, with no index.
    plain = len(source) == columns and bool((source == torch.arange(columns)).all())
    gather = None if plain else source
    state = {
        "codes": _lay_out(layer.codes, layer.scheme.bits, lanes=lanes, source=gather),
        "scale": _in_lanes(layer.scale.expand(rows, -1), lanes),
        **_chunks(steps),
    }
    zero = layer.zero.expand(rows, -1)
    # Symmetric weights have one zero point, which then is an argument and no array.
    uniform = bool((zero == zero[:1, :1]).all())
    state["zero"] = zero[:1, :1].contiguous() if uniform else _in_lanes(zero, lanes)
    if not plain:
        state["source"] = source.to(torch.int32)
    return state


def _lay_out(codes: Tensor, bits: int, *, lanes: int, source: Tensor | None) -> Tensor:
    """Lay codes out some rows at a time, so that little is in memory twice."""
    steps = (codes.shape[1] if source is None else len(source)) // STEP
    blocks = -(-codes.shape[0] // lanes)
    out = torch.empty((blocks, steps, bits, lanes * QUAD), dtype=torch.uint8)
    at_once = max(1, ROWS // lanes)
    for first in range(0, blocks, at_once):
        part = codes[first * lanes : (first + at_once) * lanes]
        if source is not None:
            # A padded place has code 0 and meets an input of 0: it adds nothing.
            part = part.index_select(1, source.clamp(min=0)).masked_fill_(source < 0, 0)
        out[first : first + at_once] = _in_planes(_in_blocks(part, lanes), bits)
    return out


def unpack(state: dict[str, Tensor], demand: Demand) -> QuantizedTensor:
    """Undo :func:`pack` bit for bit."""
    (rows, columns), bits = demand.shape, demand.scheme.bits
    quads = _from_planes(state["codes"], bits)
    blocks, steps, _, lanes, _ = quads.shape
    codes = quads.permute(0, 3, 1, 2, 4).reshape(blocks * lanes, steps * STEP)[:rows]
    if "source" in state:
        kept = state["source"] >= 0
        placed = torch.empty((rows, columns), dtype=torch.uint8)
        placed[:, state["source"][kept].long()] = codes[:, kept]
        codes = placed
    scale = _from_lanes(state["scale"], rows)
    zero = state["zero"]
    zero = zero.expand(scale.shape) if zero.dim() == 2 else _from_lanes(zero, rows)
    return QuantizedTensor(codes.contiguous(), scale, zero.contiguous(), demand.scheme)


def _padded(group: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Return which input stands at each padded place, and the steps of each group."""
    order = torch.argsort(group, stable=True)
    sizes = torch.bincount(group, minlength=groups)
    # Every group starts at a step of its own, so that a step has one scale.
    steps = (sizes + STEP - 1) // STEP
    starts = torch.cumsum(steps * STEP, 0) - steps * STEP
    begins = torch.cumsum(sizes, 0) - sizes
    of = group[order]
    source = torch.full((int(steps.sum()) * STEP,), -1, dtype=torch.int64)
    source[starts[of] + torch.arange(len(order)) - begins[of]] = order
    return source, steps


def _chunks(steps: Tensor) -> dict[str, Tensor]:
    """Cut the steps of each group into chunks."""
    most = CHUNK // STEP
    rows = [
        (min(most, int(count) - start), group)
        for group, count in enumerate(steps.tolist())
        for start in range(0, int(count), most)
    ]
    table = torch.tensor(rows, dtype=torch.int32)
    return {
        "chunk_steps": table[:, 0].contiguous(),
        "chunk_group": table[:, 1].contiguous(),
    }


def _in_blocks(codes: Tensor, lanes: int) -> Tensor:
    """Reorder [out, in] to [blocks, steps, 8, lanes, 4]."""
    padded = torch.nn.functional.pad(codes, (0, 0, 0, -codes.shape[0] % lanes))
    split = padded.reshape(-1, lanes, codes.shape[1] // STEP, STEP // QUAD, QUAD)
    return split.permute(0, 2, 3, 1, 4).contiguous()


def _in_lanes(values: Tensor, lanes: int) -> Tensor:
    """Reorder [out, groups] to [blocks, groups, lanes]."""
    padded = torch.nn.functional.pad(values, (0, 0, 0, -values.shape[0] % lanes))
    return padded.reshape(-1, lanes, values.shape[1]).transpose(1, 2).contiguous()


def _from_lanes(values: Tensor, rows: int) -> Tensor:
    return values.transpose(1, 2).reshape(-1, values.shape[1])[:rows].contiguous()


def _planes(bits: int) -> list[tuple[int, int]]:
    """Return size and lowest bit of each plane; the lowest bits come first."""
    planes, low = [], 0
    for size in PLANES:
        if bits & size:
            planes.append((size, low))
            low += size
    return planes


def _in_planes(quads: Tensor, bits: int) -> Tensor:
    """Pack uint8 [blocks, steps, 8, lanes, 4] to [blocks, steps, bits, lanes * 4] bytes."""
    parts = []
    for size, low in _planes(bits):
        pieces = (quads >> low) & (2**size - 1)
        # Eight codes' pieces of a size share bytes: 8 // size of them lie in one.
        vector = pieces[:, :, :size].clone()
        for place in range(1, 8 // size):
            vector |= pieces[:, :, place * size : (place + 1) * size] << (place * size)
        parts.append(vector.flatten(3))
    return torch.cat(parts, 2).contiguous()


def _from_planes(planes: Tensor, bits: int) -> Tensor:
    blocks, steps, _, width = planes.shape
    quads = torch.zeros((blocks, steps, 8, width // QUAD, QUAD), dtype=torch.uint8)
    start = 0
    for size, low in _planes(bits):
        vector = planes[:, :, start : start + size].unflatten(3, (-1, QUAD))
        for place in range(8 // size):
            piece = (vector >> (place * size)) & (2**size - 1)
            quads[:, :, place * size : (place + 1) * size] |= piece << low
        start += size
    return quads
