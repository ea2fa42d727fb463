"""Shards of safetensors files: written tensor by tensor, read back and indexed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from autoround.errors import OutputError, VerificationError
from autoround.export.planned_shards import PlannedShards, lay_out_shards
from autoround.export.safetensors_header import METADATA
from autoround.export.spool import Spool
from autoround.export.staging import Staging
from autoround.model.files.stored import INDEX, SINGLE
from autoround.storage.checksum import checksum
from autoround.storage.files import replace, sync_path, write_file

#: Bytes of a written file that are read at a time to check it.
READ_BYTES = 128 << 20


class ShardWriter(Staging):
    """Collects tensors into shards and turns the finished folder into the output."""

    def __init__(self, folder: Path, *, max_shard_bytes: int) -> None:
        super().__init__(folder)
        self._limit = max_shard_bytes
        self._spool: Spool | None = None
        self._planned: PlannedShards | None = None
        self._paths: list[Path] = []
        self._shards: list[dict[str, int]] = []
        self._sums: dict[str, int] = {}

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave nothing open, and nothing behind that did not become the output."""
        if self._planned is not None:
            self._planned.close()
        if self._spool is not None:
            # It goes with the folder, if it cannot be deleted by itself.
            with suppress(OSError):
                self._spool.close()
        super().__exit__(kind, error, trace)

    def expect(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Make places for all tensors that will come, so that each is written once.

        Others may come nevertheless, or fewer: then all are written as if none had been expected.

        Args:
            tensors: in the order that they will come in, by name; on meta.
        """
        self._planned = PlannedShards(self._staging, lay_out_shards(tensors, self._limit))

    def add(self, tensors: Mapping[str, Tensor]) -> None:
        """Take tensors for the output, onto the disk at once.

        Raises:
            OutputError: a name comes twice, or the disk is full.
        """
        for name, tensor in tensors.items():
            if name in self._sums:
                raise OutputError(f"tensor {name!r} would be written twice")
            in_host = tensor.to("cpu")  # once: it is written, and its checksum taken
            try:
                if self._planned is not None and not self._planned.expects(name, in_host):
                    self._spool_all(self._planned)
                if self._planned is not None:
                    self._planned.write(name, in_host)
                else:
                    self._spool_tensor(name, in_host)
            except OSError as error:
                raise OutputError(
                    f"{self._staging}: tensor {name} cannot be written: {error}"
                ) from error
            self._sums[name] = checksum(in_host)

    def _spool_tensor(self, name: str, tensor: Tensor) -> None:
        """Append a tensor to the shard that is being filled, or to the next one."""
        size = tensor.numel() * tensor.element_size()
        # A tensor that is larger than the limit gets a shard of its own.
        if self._spool is not None and self._spool.size + size > self._limit:
            self._flush(self._spool)
        self._spool = self._spool or Spool(self._staging / f"shard-{len(self._shards)}")
        self._spool.add(name, tensor)

    def _spool_all(self, planned: PlannedShards) -> None:
        """Give up the places that were made: what has come goes through the spool."""
        for name in self._sums:
            self._spool_tensor(name, planned.read(name))
        self._planned = None
        planned.remove()

    def _flush(self, spool: Spool) -> None:
        path = self._staging / f"shard-{len(self._shards)}"
        spool.finish(METADATA)
        sync_path(path)
        self._paths.append(path)
        self._shards.append({name: part.size for name, part in spool.parts.items()})
        self._spool = None

    def _close_shards(self) -> None:
        """Have all shards on the disk."""
        try:
            if self._planned is not None and not self._planned.complete:
                self._spool_all(self._planned)
            if self._planned is not None:
                self._paths, self._shards = self._planned.paths, self._planned.contents
            elif self._spool is not None:
                self._flush(self._spool)
        except OSError as error:
            raise OutputError(f"{self._staging} cannot be written: {error}") from error

    def add_text(self, name: str, text: str) -> None:
        """Write a small file."""
        path = self._staging / name
        write_file(path, text)
        sync_path(path)

    def finish(self, config: Mapping[str, Any]) -> int:
        """Complete the folder and move it into place; returns the bytes of all files.

        Raises:
            VerificationError: a shard does not read back with the tensors it was given.
            OutputError: the folder appeared meanwhile and is not empty.
        """
        self.complete(config)
        return self.publish()

    def complete(self, config: Mapping[str, Any]) -> None:
        """Name the shards, check them, and write index and config.

        Raises:
            VerificationError: a shard does not read back with the tensors it was given.
        """
        self._close_shards()
        names = self._name_shards()
        for name, shard in zip(names, self._shards, strict=True):
            _verify(self._staging / name, {tensor: self._sums[tensor] for tensor in shard})
        # Last of all: a folder with a config, and without the marker, is a model.
        self.add_text("config.json", json.dumps(config, indent=2) + "\n")

    def _name_shards(self) -> list[str]:
        # Names say how many shards there are, which is known at the end.
        count = len(self._shards)
        if count == 1:
            names = [SINGLE]
        else:
            names = [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
            weight_map = {t: n for n, shard in zip(names, self._shards, strict=True) for t in shard}
            size = sum(sum(shard.values()) for shard in self._shards)
            index = {"metadata": {"total_size": size}, "weight_map": weight_map}
            self.add_text(INDEX, json.dumps(index, indent=2) + "\n")
        for path, name in zip(self._paths, names, strict=True):
            replace(path, self._staging / name)
        return names


def _verify(path: Path, sums: Mapping[str, int]) -> None:
    """Read a written file and compare every tensor with what was to be written."""
    try:
        with safe_open(path, framework="pt") as opened:
            if set(opened.keys()) != set(sums) or opened.metadata() != METADATA:
                raise VerificationError(
                    f"{path.name} was written with other tensors than it was given"
                )
        for names in _portions(path, list(sums)):
            # What is read of an opened file counts as memory of this process until it is closed.
            with safe_open(path, framework="pt") as opened:
                for name in names:
                    if checksum(opened.get_tensor(name)) != sums[name]:
                        raise VerificationError(
                            f"{path.name}: tensor {name} does not read back as it was written"
                        )
    except (SafetensorError, OSError) as error:
        raise VerificationError(f"{path.name} cannot be read back: {error}") from error


def _portions(path: Path, names: list[str]) -> list[list[str]]:
    """Cut a file's tensors into portions of about as many bytes as are read at a time."""
    count = max(1, round(len(names) * READ_BYTES / max(path.stat().st_size, 1)))
    return [names[start : start + count] for start in range(0, len(names), count)]
