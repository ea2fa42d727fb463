"""One safetensors file written tensor by tensor, so that none of them waits in memory.

The format wants all names and places before the first byte of data. So tensors go to a
spool file as they come, and are copied behind the header when the shard is full. The result
is byte for byte what ``safetensors.torch.save_file`` writes from memory.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from autoround.storage.checksum import CHUNK, raw_bytes
from autoround.storage.files import WritableFile, remove_file


class Part(NamedTuple):
    """A tensor in the spool: where it begins and how long it is, in bytes."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    size: int


class Spool:
    """Tensors of one shard on their way to the disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._data = path.with_name(path.name + ".data")
        self._file = WritableFile(self._data)
        self.parts: dict[str, Part] = {}
        self.size = 0

    def add(self, name: str, tensor: Tensor) -> None:
        """Append a tensor; raises OSError where the disk does."""
        data = raw_bytes(tensor)
        self._file.write(data)
        self.parts[name] = Part(tensor.dtype, tuple(tensor.shape), self.size, data.nbytes)
        self.size += data.nbytes

    def finish(self, metadata: Mapping[str, str]) -> None:
        """Write the shard and drop the spool; raises OSError where the disk does."""
        order = sorted(self.parts, key=lambda n: (_RANKS[self.parts[n].dtype], n))
        with WritableFile(self._path) as shard:
            shard.write(_header(order, self.parts, metadata))
            for part in map(self.parts.__getitem__, order):
                for start in range(0, part.size, CHUNK):
                    size = min(CHUNK, part.size - start)
                    shard.write(self._file.read_at(size, part.start + start))
        self.close()

    def close(self) -> None:
        """Drop what was spooled."""
        self._file.close()
        remove_file(self._data)


#: What the format calls each dtype, in the library's order: the widest first, so that all are
#: aligned.
_CODES: Mapping[torch.dtype, str] = {
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
_RANKS = {dtype: rank for rank, dtype in enumerate(_CODES)}


def _header(order: list[str], parts: Mapping[str, Part], metadata: Mapping[str, str]) -> bytes:
    described: dict[str, object] = {"__metadata__": dict(metadata)}
    place = 0
    for name in order:
        part = parts[name]
        described[name] = {
            "dtype": _CODES[part.dtype],
            "shape": list(part.shape),
            "data_offsets": [place, place + part.size],
        }
        place += part.size
    text = json.dumps(described, separators=(",", ":"), ensure_ascii=False).encode()
    # Data starts at a multiple of eight bytes, as the library has it.
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
