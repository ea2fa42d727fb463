"""Shards whose tensors are known before the first of them comes: each is written once, in place.

The header of a safetensors file names all of its tensors and their places. A plan tells these, so
a tensor's bytes go to where they stay, and a shard is synced when its last one has come.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from autoround.export.safetensors_header import METADATA, Part, make_header
from autoround.storage.checksum import raw_bytes
from autoround.storage.files import WritableFile, remove_file


class ShardLayout(NamedTuple):
    """One shard: what comes before its tensors, and these in the order that they come in."""

    header: bytes
    parts: Mapping[str, Part]


def lay_out_shards(tensors: Iterable[tuple[str, Tensor]], limit: int) -> list[ShardLayout]:
    """Tell which shard every tensor goes to, and where in it.

    Args:
        tensors: in the order that they come in, by name; on meta, since no value is looked at.
        limit: bytes of a shard; a tensor that is larger gets one of its own.

    Returns:
        The shards; parts are those of the file.
    """
    shards: list[dict[str, Part]] = []
    room = 0
    for name, tensor in tensors:
        size = tensor.numel() * tensor.element_size()
        if not shards or size > room:
            shards.append({})
            room = limit
        room -= size
        shards[-1][name] = Part(tensor.dtype, tuple(tensor.shape), 0, size)
    return [_place(parts) for parts in shards]


def _place(parts: dict[str, Part]) -> ShardLayout:
    order, header = make_header(parts, METADATA)
    start = len(header)
    placed = dict(parts)
    for name in order:
        placed[name] = parts[name]._replace(start=start)
        start += parts[name].size
    return ShardLayout(header, placed)


class PlannedShards:
    """Writes tensors to their places, in any order.

    Args:
        folder: of the files.
        shards: where everything goes.
    """

    def __init__(self, folder: Path, shards: list[ShardLayout]) -> None:
        self._shards = shards
        self.paths = [folder / f"planned-{number}" for number in range(len(shards))]
        self._of = {name: number for number, shard in enumerate(shards) for name in shard.parts}
        self._left = [len(shard.parts) for shard in shards]
        self._files: dict[int, WritableFile] = {}

    @property
    def complete(self) -> bool:
        """Whether every tensor has come."""
        return not any(self._left)

    @property
    def contents(self) -> list[dict[str, int]]:
        """The names of every shard's tensors, in the order that they come in, and their bytes."""
        return [{name: part.size for name, part in s.parts.items()} for s in self._shards]

    def expects(self, name: str, tensor: Tensor) -> bool:
        """Tell whether a tensor of that name, type and shape has a place.

        Args:
            name: of the tensor.
            tensor: on any device.
        """
        if name not in self._of:
            return False
        part = self._shards[self._of[name]].parts[name]
        return (part.dtype, part.shape) == (tensor.dtype, tuple(tensor.shape))

    def write(self, name: str, tensor: Tensor) -> None:
        """Write a tensor to its place, once; raises OSError where the disk does.

        Args:
            name: of the tensor.
            tensor: one that is expected, on the CPU.
        """
        number = self._of[name]
        shard = self._shards[number]
        if number not in self._files:
            self._files[number] = WritableFile(self.paths[number])
            self._files[number].write(shard.header)
        self._files[number].write_at(raw_bytes(tensor), shard.parts[name].start)
        self._left[number] -= 1
        if not self._left[number]:
            self._files[number].sync()
            self._files.pop(number).close()

    def read(self, name: str) -> Tensor:
        """Return a tensor that was written."""
        number = self._of[name]
        part = self._shards[number].parts[name]
        with self.paths[number].open("rb") as file:
            file.seek(part.start)
            data = bytearray(file.read(part.size))
        if not data:
            return torch.empty(part.shape, dtype=part.dtype)
        return torch.frombuffer(data, dtype=torch.uint8).view(part.dtype).reshape(part.shape)

    def close(self) -> None:
        """Let go of the files."""
        for number in list(self._files):
            self._files.pop(number).close()

    def remove(self) -> None:
        """Delete the files."""
        self.close()
        for path in self.paths:
            remove_file(path)
