"""The header of a safetensors file, byte for byte as the library writes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple

import torch

#: What a file of ours says of itself; transformers refuses files that say another thing.
METADATA = {"format": "pt"}


class Part(NamedTuple):
    """A tensor's bytes in a file: where they begin and how many there are."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    size: int


#: What the format calls each dtype, in the library's order: the widest first, so that all are
#: aligned.
CODES: Mapping[torch.dtype, str] = {
    torch.uint64: "U64",
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.uint32: "U32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.uint16: "U16",
    torch.int16: "I16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_RANKS = {dtype: rank for rank, dtype in enumerate(CODES)}


def make_header(parts: Mapping[str, Part], metadata: Mapping[str, str]) -> tuple[list[str], bytes]:
    """Return the order that tensors have in a file, and all that comes before their bytes.

    Args:
        parts: the tensors by name; where their bytes come from does not matter.
        metadata: what the file says of itself.
    """
    order = sorted(parts, key=lambda name: (_RANKS[parts[name].dtype], name))
    described: dict[str, object] = {"__metadata__": dict(metadata)}
    place = 0
    for name in order:
        part = parts[name]
        described[name] = {
            "dtype": CODES[part.dtype],
            "shape": list(part.shape),
            "data_offsets": [place, place + part.size],
        }
        place += part.size
    text = json.dumps(described, separators=(",", ":"), ensure_ascii=False).encode()
    # Data starts at a multiple of eight bytes, as the library has it.
    text += b" " * (-len(text) % 8)
    return order, len(text).to_bytes(8, "little") + text
