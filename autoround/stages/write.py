"""The output folder: built beside its final place, and moved there when complete.

Until then everything is in ``<output>.partial``, which has no config.json before its last
moment, so nothing half-written can be taken for a model. The final move is one rename.
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from torch import Tensor

from autoround.errors import OutputError, VerificationError
from autoround.model.source import INDEX, SINGLE
from autoround.stages.shard import Spool, raw_bytes

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
#: Bytes of a written file that are read at a time to check it.
READ_BYTES = 128 << 20
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


def replace_synced(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file aside, sync it, and rename it: it is there whole or not at all.

    write: is given the path to write to.

    Raises:
        OutputError: the disk is full, or cannot be written to.
    """
    aside = path.with_name(path.name + ".tmp")
    try:
        write(aside)
        sync_path(aside)
        os.replace(aside, path)
        sync_path(path.parent)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"{path} cannot be written: {error}") from error


def existing_parent(path: Path) -> Path:
    """Return the nearest folder above a path that exists: the disk it will be on."""
    return next(p for p in path.absolute().parents if p.exists())


def check_room(folder: Path, needed: int) -> None:
    """Refuse a disk without room for the result.

    Raises:
        OutputError: with both figures.
    """
    parent = existing_parent(folder)
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise OutputError(
            f"output needs {needed / 1e9:.2f} GB, and {parent} has {free / 1e9:.2f} GB free"
        )


def _is_ours(folder: Path) -> bool:
    """Tell whether a run built a folder; the mark goes just before the last rename."""
    return (
        (folder / MARKER).is_file()
        or (folder / "plan.json").is_file()
        or any(folder.glob("*/plan.json"))
        or not any(folder.iterdir())
    )


StagingT = TypeVar("StagingT", bound="Staging")


class Staging:
    """A folder that is built beside its final place, and moved there when complete."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self._staging = self._folder.with_name(self._folder.name + ".partial")

    def __enter__(self: StagingT) -> StagingT:
        check_output(self._folder)
        if self._staging.exists() and not _is_ours(self._staging):
            raise OutputError(
                f"{self._staging} is in the way: the output is built there, and it is not "
                "left over from an earlier run; move it, or name another output folder"
            )
        shutil.rmtree(self._staging, ignore_errors=True)
        try:
            self._staging.mkdir(parents=True)
            mark = "An unfinished output of autoround; safe to delete.\n"
            (self._staging / MARKER).write_text(mark)
        except OSError as error:
            shutil.rmtree(self._staging, ignore_errors=True)
            raise OutputError(f"{self._staging} cannot be written: {error}") from error
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
        for path in side_files(source):
            shutil.copyfile(path, self._staging / path.name)

    def publish(self) -> int:
        """Move the finished folder into place; returns the bytes of all files.

        Raises:
            OutputError: the folder appeared meanwhile and is not empty.
        """
        check_output(self._folder)
        for path in sorted(self._staging.rglob("*")):
            # Side files and folders, too: a rename that outlives a power cut names nothing empty.
            sync_path(path)
        (self._staging / MARKER).unlink(missing_ok=True)
        sync_path(self._staging)
        total = sum(p.stat().st_size for p in self._staging.rglob("*") if p.is_file())
        if self._folder.is_dir():
            self._folder.rmdir()
        os.replace(self._staging, self._folder)
        sync_path(self._folder.parent)
        return total


class Writer(Staging):
    """Collects tensors into shards and turns the finished folder into the output."""

    def __init__(self, folder: Path, *, max_shard_bytes: int) -> None:
        super().__init__(folder)
        self._limit = max_shard_bytes
        self._spool: Spool | None = None
        self._shards: list[dict[str, int]] = []
        self._sums: dict[str, int] = {}

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave nothing open, and nothing behind that did not become the output."""
        if self._spool is not None:
            self._spool.close()
        super().__exit__(kind, error, trace)

    def add(self, tensors: Mapping[str, Tensor]) -> None:
        """Take tensors for the output, onto the disk at once.

        Raises:
            OutputError: a name comes twice, or the disk is full.
        """
        for name, tensor in tensors.items():
            if name in self._sums:
                raise OutputError(f"tensor {name!r} would be written twice")
            size = tensor.numel() * tensor.element_size()
            if self._spool is not None and self._spool.size + size > self._limit:
                self._flush(self._spool)
            path = self._staging / f"shard-{len(self._shards)}"
            try:
                self._spool = self._spool or Spool(path)
                self._spool.add(name, tensor)
            except OSError as error:
                raise OutputError(f"{path} cannot be written: {error}") from error
            self._sums[name] = checksum(tensor)

    def _flush(self, spool: Spool) -> None:
        path = self._staging / f"shard-{len(self._shards)}"
        try:
            spool.finish(METADATA)
            sync_path(path)
        except OSError as error:
            raise OutputError(f"{path} cannot be written: {error}") from error
        self._shards.append({name: part.size for name, part in spool.parts.items()})
        self._spool = None

    def add_text(self, name: str, text: str) -> None:
        """Write a small file."""
        path = self._staging / name
        path.write_text(text, encoding="utf-8")
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
        if self._spool is not None:
            self._flush(self._spool)
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


def side_files(source: Path) -> list[Path]:
    """Return the files of a model that describe its tokenizer, generation and licence."""
    found = (path for pattern in COPIED for path in sorted(source.glob(pattern)))
    return [path for path in found if path.is_file() and path.name not in NOT_COPIED]


def sync_path(path: Path) -> None:
    """Make a file or a folder's entries survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_synced(folder: Path) -> None:
    """Make a folder, and those above it, so that they survive a power cut; raises OSError."""
    missing = [p for p in (folder, *folder.parents) if not p.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing or [folder]:
        sync_path(path.parent)


def checksum(tensor: Tensor) -> int:
    """Return the CRC-32 of a tensor's bytes, with its dtype and shape."""
    head = f"{tensor.dtype} {tuple(tensor.shape)}".encode()
    return zlib.crc32(raw_bytes(tensor), zlib.crc32(head))


def checksum_of_all(tensors: Iterable[Tensor]) -> int:
    """Return one sum of tensors in their order; no more than one has to be in memory."""
    total = 0
    for tensor in tensors:
        total = (total * 31 + checksum(tensor)) % 2**61
    return total


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
