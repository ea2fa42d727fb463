"""One safetensors file written tensor by tensor, so that none of them waits in memory.

The format wants all names and places before the first byte of data. So where these are not known
before, tensors go to a spool file as they come, and are copied behind the header when the shard is
full. The result is byte for byte what ``safetensors.torch.save_file`` writes from memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from autoround.export.safetensors_header import Part, make_header
from autoround.storage.checksum import CHUNK, raw_bytes
from autoround.storage.files import WritableFile, remove_file


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
        order, header = make_header(self.parts, metadata)
        with WritableFile(self._path) as shard:
            shard.write(header)
            for part in map(self.parts.__getitem__, order):
                for start in range(0, part.size, CHUNK):
                    size = min(CHUNK, part.size - start)
                    shard.write(self._file.read_at(size, part.start + start))
        self.close()

    def close(self) -> None:
        """Drop what was spooled."""
        self._file.close()
        remove_file(self._data)
