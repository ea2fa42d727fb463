"""The blocks of GGUF: from carried integers to the bytes of ggml's types, and back.

A row is a sequence of blocks of 32 or 256 weights, each with its scales before, between
or after its codes. Where each bit lies is said next to the code that puts it there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from autoround.core.grids.gguf_types import GGUF_TYPES, GgufType
from autoround.errors import FormatError
from autoround.formats.gguf import kquants as gguf_kquants
from autoround.formats.gguf import legacy as gguf_legacy

#: Weights packed at a time: bounds the temporaries, and a few of them fit a cache.
CHUNK_WEIGHTS = 1 << 20


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One quantized weight as a block type of GGUF holds it.

    kind: the type, one of GGUF_TYPES. codes: uint8 [out, in], 0 … 2**bits - 1; types without a
    minimum count levels from ``code - 2**(bits-1)``.
    scale: float16 [out, blocks]. sub_scale: int8 [out, groups], k-quants only.
    minimum: float16 [out, blocks], what is subtracted; None for types without one.
    sub_minimum: int8 or uint8 [out, groups]; None where there is no minimum, or one each block.
    """

    kind: str
    codes: Tensor
    scale: Tensor
    sub_scale: Tensor | None = None
    minimum: Tensor | None = None
    sub_minimum: Tensor | None = None


_PACKERS = {**gguf_legacy.PACKERS, **gguf_kquants.PACKERS}
_UNPACKERS = {**gguf_legacy.UNPACKERS, **gguf_kquants.UNPACKERS}
#: The parts of a tensor, as packers take them, and the dtypes each may have.
_DTYPES = {
    "codes": (torch.uint8,),
    "scale": (torch.float16,),
    "sub_scale": (torch.int8,),
    "minimum": (torch.float16,),
    "sub_minimum": (torch.int8, torch.uint8),
}


def bytes_per_row(kind: str, columns: int) -> int:
    """Return the bytes of a row.

    Args:
        kind: block type.
        columns: weights of a row.

    Raises:
        FormatError: the type is unknown, or its blocks do not fit the row.
    """
    reason = why_not(columns, kind)
    if reason:
        raise FormatError(reason)
    return columns // GGUF_TYPES[kind].block * GGUF_TYPES[kind].bytes


def why_not(columns: int, kind: str) -> str:
    """Return why rows cannot be of a type, or an empty text.

    Args:
        columns: weights of a row.
        kind: block type.
    """
    if kind not in GGUF_TYPES:
        return f"no block type is named {kind!r}; legal: {', '.join(GGUF_TYPES)}"
    if columns % GGUF_TYPES[kind].block:
        return f"rows of {columns} weights are no multiple of {kind}'s {GGUF_TYPES[kind].block}"
    return ""


def pack(layer: GgufTensor) -> Tensor:
    """Return the blocks of a weight, as ggml lays them out; meta tensors give the shape.

    Args:
        layer: of a shape that its block type can have.

    Returns:
        uint8 [out, bytes of a row].

    Raises:
        FormatError: a part is missing, or has a shape, a dtype or values that the type lacks.
    """
    parts = _checked(layer)
    kind, (rows, columns) = GGUF_TYPES[layer.kind], layer.codes.shape
    _check_values(layer.kind, parts)
    width = bytes_per_row(layer.kind, columns)
    out = torch.empty((rows, width), dtype=torch.uint8, device=layer.codes.device)
    for chunk in _chunks(layer.codes, columns):
        count = (chunk.stop - chunk.start) * (columns // kind.block)
        pieces = _PACKERS[layer.kind](*(_by_block(part[chunk], count) for part in parts.values()))
        # [blocks, bytes of one] back to rows: blocks of a row follow each other.
        out[chunk] = torch.cat(pieces, dim=1).reshape(-1, width)
    return out


def unpack(data: Tensor, kind: str) -> GgufTensor:
    """Read a weight back from its blocks; nothing of it shares memory with them.

    Args:
        data: uint8 [out, bytes of a row]; meta tensors give shapes.
        kind: block type.

    Raises:
        FormatError: the type is unknown, or the rows are no whole number of blocks.
    """
    if kind not in GGUF_TYPES:
        raise FormatError(why_not(0, kind))
    held = GGUF_TYPES[kind]
    if data.dtype != torch.uint8 or data.ndim != 2:
        raise FormatError(f"{kind}: blocks are uint8 [out, bytes of a row], not {_described(data)}")
    if data.shape[1] % held.bytes:
        raise FormatError(
            f"{kind}: rows of {data.shape[1]} bytes are no multiple of a block's {held.bytes}"
        )
    columns = data.shape[1] // held.bytes * held.block
    parts = {
        name: torch.empty(shape, dtype=_DTYPES[name][0], device=data.device)
        for name, shape in _shapes(held, data.shape[0], columns).items()
    }
    for chunk in _chunks(data, columns):
        count = (chunk.stop - chunk.start) * (columns // held.block)
        found = _UNPACKERS[kind](data[chunk].reshape(count, held.bytes))
        for part, values in zip(parts.values(), found, strict=True):
            part[chunk] = values.reshape(-1, part.shape[1])
    return GgufTensor(kind, **parts)


def dequantize(layer: GgufTensor) -> Tensor:
    """Return the weights in the order of operations of ggml.

    Args:
        layer: in any block type.

    Returns:
        float32 [out, in].

    Raises:
        FormatError: a part is missing, or has another shape or dtype than the type's.
    """
    _checked(layer)
    kind, (rows, columns) = GGUF_TYPES[layer.kind], layer.codes.shape
    width = kind.group or kind.block
    levels = layer.codes.reshape(rows, columns // width, width).float()
    if kind.sym:
        levels -= 2 ** (kind.bits - 1)
    levels *= _spread(layer.scale, layer.sub_scale)
    if layer.minimum is not None:
        levels -= _spread(layer.minimum, layer.sub_minimum)
    return levels.reshape(rows, columns)


def _spread(whole: Tensor, sub: Tensor | None) -> Tensor:
    """Return what each group is multiplied by: float32 [out, groups, 1]."""
    # Types of 32 weights have one scale a block, and no groups below it.
    if sub is None:
        return whole.float().unsqueeze(-1)
    rows, blocks = whole.shape
    # float16 times integer is exact in float32, as in ggml.
    each = sub.reshape(rows, blocks, sub.shape[1] // max(1, blocks)).float()
    return (whole.float().unsqueeze(-1) * each).reshape(*sub.shape, 1)


def _by_block(part: Tensor, count: int) -> Tensor:
    """Cut rows of a part into blocks: [rows, …] to [count, part of a block]."""
    return part.reshape(count, part.numel() // max(1, count)).contiguous()


def _chunks(tensor: Tensor, columns: int) -> Iterator[slice]:
    """Yield row ranges of about CHUNK_WEIGHTS; a meta tensor has nothing to save."""
    rows = tensor.shape[0] if columns else 0
    step = rows if tensor.is_meta else max(1, CHUNK_WEIGHTS // max(1, columns))
    for start in range(0, rows, max(1, step)):
        yield slice(start, min(start + step, rows))


def _shapes(kind: GgufType, rows: int, columns: int) -> dict[str, tuple[int, int]]:
    """Return the shape of each part that a type has, in the order of its packer."""
    whole = (rows, columns // kind.block)
    shapes = {"codes": (rows, columns), "scale": whole}
    if kind.group:
        shapes["sub_scale"] = (rows, columns // kind.group)
    if not kind.sym:
        shapes["minimum"] = whole
    if kind.group and not kind.sym:
        shapes["sub_minimum"] = shapes["sub_scale"]
    return shapes


def _checked(layer: GgufTensor) -> dict[str, Tensor]:
    """Return the parts of a tensor once they are what its type has, and nothing else."""
    name, codes = layer.kind, layer.codes
    if codes.ndim != 2:
        raise FormatError(f"{name}: codes should be uint8 [out, in], not {_described(codes)}")
    rows, columns = codes.shape
    bytes_per_row(name, columns)
    shapes = _shapes(GGUF_TYPES[name], rows, columns)
    parts: dict[str, Tensor] = {}
    for part, dtypes in _DTYPES.items():
        held: Tensor | None = getattr(layer, part)
        if part not in shapes:
            if held is not None:
                raise FormatError(f"{name}: has no {part}, but {_described(held)} was given")
        elif held is None or held.shape != shapes[part] or held.dtype not in dtypes:
            legal = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
            given = "nothing" if held is None else _described(held)
            raise FormatError(f"{name}: {part} should be {legal} {shapes[part]}, not {given}")
        else:
            parts[part] = held
    return parts


def _check_values(name: str, parts: Mapping[str, Tensor]) -> None:
    """Refuse integers that would spill into the bits of others."""
    kind = GGUF_TYPES[name]
    ranges = {"codes": (0, 2**kind.bits - 1)}
    if kind.sub_range is not None:
        ranges |= {"sub_scale": kind.sub_range, "sub_minimum": kind.sub_range}
    for part, values in parts.items():
        if part not in ranges or values.is_meta or not values.numel():
            continue
        low, high = (int(end) for end in values.aminmax())
        if low < ranges[part][0] or high > ranges[part][1]:
            raise FormatError(
                f"{name}: {part} go from {low} to {high}; legal: {ranges[part][0]} … "
                f"{ranges[part][1]}"
            )


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
