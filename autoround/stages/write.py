"""The output folder: built beside its final place, and moved there when complete.

Until then everything is in ``<output>.partial``, which has no config.json before its last
moment, so nothing half-written can be taken for a model. The final move is one rename.
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from autoround.errors import OutputError, VerificationError
from autoround.model.source import INDEX, SINGLE

#: Side files of a checkpoint that describe tokenizer, generation and licence.
COPIED = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "LICENSE*", "NOTICE*")
#: Files among them that this run writes itself, or that describe other weights.
NOT_COPIED = (
    "config.json",
    INDEX,
    "plan.json",
    "quantize_config.json",
    "quant_config.json",
    "adapter_config.json",
)
#: What a safetensors file says of itself; transformers refuses files that say another thing.
METADATA = {"format": "pt"}
#: Says that a folder is a run's unfinished output, and not somebody's own.
MARKER = "INCOMPLETE"


def check_output(folder: Path) -> None:
    """Refuse an output folder that would be overwritten or cannot be made.

    Raises:
        OutputError: it is a file, is not empty, or its parent cannot be written to.
    """
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"output {folder} is a file; name a folder that does not exist yet")
    if folder.is_dir() and any(folder.iterdir()):
        raise OutputError(
            f"output folder {folder} is not empty; name another one, or remove it first"
        )
    parent = next(p for p in [folder.absolute(), *folder.absolute().parents] if p.exists())
    if not parent.is_dir():
        raise OutputError(f"output folder {folder} cannot be made: {parent} is a file")
    if not os.access(parent, os.W_OK):
        raise OutputError(f"output folder {folder} cannot be made: {parent} is not writable")


def check_room(folder: Path, needed: int) -> None:
    """Refuse a disk without room for the result.

    Raises:
        OutputError: with both figures.
    """
    parent = next(p for p in folder.absolute().parents if p.exists())
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise OutputError(
            f"output needs {needed / 1e9:.2f} GB, and {parent} has {free / 1e9:.2f} GB free"
        )


StagingT = TypeVar("StagingT", bound="Staging")


class Staging:
    """A folder that is built beside its final place, and moved there when complete."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self._staging = self._folder.with_name(self._folder.name + ".partial")

    def __enter__(self: StagingT) -> StagingT:
        check_output(self._folder)
        if self._staging.exists() and not (self._staging / MARKER).is_file():
            raise OutputError(
                f"{self._staging} is in the way: the output is built there, and it is not "
                "left over from an earlier run; move it, or name another output folder"
            )
        shutil.rmtree(self._staging, ignore_errors=True)
        self._staging.mkdir(parents=True)
        (self._staging / MARKER).write_text("An unfinished output of autoround; safe to delete.\n")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Whatever did not become the output is of no use without a way to continue it.
        shutil.rmtree(self._staging, ignore_errors=True)

    @property
    def staging(self) -> Path:
        """Where files go until the folder is complete."""
        return self._staging

    def copy_side_files(self, source: Path) -> None:
        """Copy tokenizer, generation and licence files of the original model."""
        for pattern in COPIED:
            for path in sorted(source.glob(pattern)):
                if path.is_file() and path.name not in NOT_COPIED:
                    shutil.copyfile(path, self._staging / path.name)

    def publish(self) -> int:
        """Move the finished folder into place; returns the bytes of all files.

        Raises:
            OutputError: the folder appeared meanwhile and is not empty.
        """
        (self._staging / MARKER).unlink(missing_ok=True)
        total = sum(p.stat().st_size for p in self._staging.rglob("*") if p.is_file())
        check_output(self._folder)
        if self._folder.is_dir():
            self._folder.rmdir()
        os.replace(self._staging, self._folder)
        _sync(self._folder.parent)
        return total


class Writer(Staging):
    """Collects tensors into shards and turns the finished folder into the output."""

    def __init__(self, folder: Path, *, max_shard_bytes: int) -> None:
        super().__init__(folder)
        self._limit = max_shard_bytes
        self._pending: dict[str, Tensor] = {}
        self._pending_bytes = 0
        self._shards: list[dict[str, int]] = []
        self._sums: dict[str, int] = {}

    def add(self, tensors: Mapping[str, Tensor]) -> None:
        """Take tensors for the output; full shards are written at once.

        Raises:
            OutputError: a name comes twice.
        """
        for name, tensor in tensors.items():
            if name in self._pending or any(name in shard for shard in self._shards):
                raise OutputError(f"tensor {name!r} would be written twice")
            size = tensor.numel() * tensor.element_size()
            if self._pending and self._pending_bytes + size > self._limit:
                self._flush()
            self._pending[name] = tensor.contiguous()
            self._sums[name] = checksum(self._pending[name])
            self._pending_bytes += size

    def _flush(self) -> None:
        path = self._staging / f"shard-{len(self._shards)}"
        try:
            save_file(self._pending, path, metadata=METADATA)
            # safetensors lets only the owner read; a server often runs as somebody else.
            path.chmod((self._staging / MARKER).stat().st_mode & 0o777)
            _sync(path)
        except (OSError, SafetensorError) as error:
            raise OutputError(f"{path} cannot be written: {error}") from error
        self._shards.append(
            {name: t.numel() * t.element_size() for name, t in self._pending.items()}
        )
        self._pending, self._pending_bytes = {}, 0

    def add_text(self, name: str, text: str) -> None:
        """Write a small file."""
        path = self._staging / name
        path.write_text(text, encoding="utf-8")
        _sync(path)

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
        if self._pending:
            self._flush()
        names = self._name_shards()
        for name, shard in zip(names, self._shards, strict=True):
            _verify(self._staging / name, {tensor: self._sums[tensor] for tensor in shard})
        # Last of all: a folder with a config, and without the marker, is a model.
        self.add_text("config.json", json.dumps(config, indent=2) + "\n")

    def _name_shards(self) -> list[str]:
        count = len(self._shards)
        if count == 1:
            names = [SINGLE]
        else:
            names = [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
            weight_map = {t: n for n, shard in zip(names, self._shards, strict=True) for t in shard}
            size = sum(sum(shard.values()) for shard in self._shards)
            index = {"metadata": {"total_size": size}, "weight_map": weight_map}
            self.add_text(INDEX, json.dumps(index, indent=2) + "\n")
        for i, name in enumerate(names):
            os.replace(self._staging / f"shard-{i}", self._staging / name)
        return names


def _sync(path: Path) -> None:
    """Make a file or a folder's entries survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def checksum(tensor: Tensor) -> int:
    """Return the CRC-32 of a tensor's bytes, with its dtype and shape."""
    head = f"{tensor.dtype} {tuple(tensor.shape)}".encode()
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return zlib.crc32(flat.view(torch.uint8).numpy().data, zlib.crc32(head))


def _verify(path: Path, sums: Mapping[str, int]) -> None:
    """Read a written file and compare every tensor with what was to be written."""
    try:
        with safe_open(path, framework="pt") as opened:
            if set(opened.keys()) != set(sums) or opened.metadata() != METADATA:
                raise VerificationError(
                    f"{path.name} was written with other tensors than it was given"
                )
            for name, expected in sums.items():
                if checksum(opened.get_tensor(name)) != expected:
                    raise VerificationError(
                        f"{path.name}: tensor {name} does not read back as it was written"
                    )
    except (SafetensorError, OSError) as error:
        raise VerificationError(f"{path.name} cannot be read back: {error}") from error
