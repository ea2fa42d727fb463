"""Weights by name, a few at a time, from safetensors files or a model in memory."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Protocol, TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from autoround.errors import ModelError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
#: A larger index would name more tensors than any model has.
MAX_INDEX_BYTES = 256 << 20

#: Names of safetensors dtypes that a kept or quantized tensor may have.
DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U32": torch.uint32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


#: Shape and dtype of tensors by name.
Headers: TypeAlias = Mapping[str, tuple[tuple[int, ...], torch.dtype]]


class WeightSource(Protocol):
    """Where a model's tensors come from, under the names the checkpoint gives them."""

    def headers(self) -> Headers:
        """Return shape and dtype of every tensor, without reading any."""

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Read tensors onto the CPU in their stored dtype."""


class CheckpointSource:
    """A folder of safetensors files; only what is asked for leaves the disk."""

    def __init__(self, folder: Path, *, files: Iterable[str | Path] | None = None) -> None:
        """Take a folder's files, or some of them.

        Args:
            folder: The checkpoint's.
            files: Safetensors files to take all tensors of; None for those that the folder's index
                names.

        Raises:
            ModelError: There are none, or one is damaged.
        """
        self._files = tensor_files(folder) if files is None else _names_in(map(Path, files))
        self._headers: dict[str, tuple[tuple[int, ...], torch.dtype]] | None = None

    def headers(self) -> Headers:
        """Return shape and dtype of every tensor, from the files' headers.

        Raises:
            ModelError: a file is damaged, lacks a tensor its index promises, or holds a
                dtype that cannot be read.
        """
        if self._headers is None:
            self._headers = {}
            for file in dict.fromkeys(self._files.values()):
                names = [n for n, f in self._files.items() if f == file]
                self._headers.update(_file_headers(file, names))
        return self._headers

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Read tensors onto the CPU in their stored dtype.

        Raises:
            ModelError: a name or its data is missing.
        """
        by_file: dict[Path, list[str]] = {}
        for name in names:
            if name not in self._files:
                raise ModelError(f"the checkpoint has no tensor {name!r}")
            by_file.setdefault(self._files[name], []).append(name)
        tensors: dict[str, Tensor] = {}
        for file, wanted in by_file.items():
            tensors.update(read_tensors(file, wanted))
        return tensors


def read_tensors(file: Path, names: Iterable[str]) -> dict[str, Tensor]:
    """Read tensors of one file onto the CPU in their stored dtype.

    Raises:
        ModelError: the file is damaged, or lacks one.
    """
    tensors: dict[str, Tensor] = {}
    with _open(file) as opened:
        for name in names:
            try:
                # Copied: a view would keep the whole file mapped.
                tensors[name] = opened.get_tensor(name).clone()
            except SafetensorError as error:
                raise ModelError(f"{file}: tensor {name!r}: {error}") from error
            except (MemoryError, RuntimeError) as error:
                shape = "x".join(map(str, opened.get_slice(name).get_shape()))
                raise ModelError(
                    f"{file}: tensor {name!r} of {shape} does not fit the memory that is free"
                ) from error
    return tensors


class ModuleSource:
    """A model that is in memory already."""

    def __init__(self, model: nn.Module) -> None:
        self._tensors = {name: tensor.detach() for name, tensor in model.state_dict().items()}

    def headers(self) -> Headers:
        """Return shape and dtype of every tensor."""
        return {n: (tuple(t.shape), t.dtype) for n, t in self._tensors.items()}

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Return tensors on the CPU; they share memory with the model where they can."""
        return {name: self._tensors[name].to("cpu") for name in names}


def tensor_files(folder: Path) -> dict[str, Path]:
    """Map every tensor of a checkpoint to the file that holds it.

    Raises:
        ModelError: there are no safetensors, or the index is damaged or points outside.
    """
    index = folder / INDEX
    if index.is_file():
        return _indexed_files(folder, index)
    single = folder / SINGLE
    if not single.is_file():
        others = sorted(p.name for p in folder.glob("*.bin")) + sorted(
            p.name for p in folder.glob("*.gguf")
        )
        hint = f"; it has {', '.join(others[:3])}: convert to safetensors first" if others else ""
        raise ModelError(f"{folder} has neither {SINGLE} nor {INDEX}{hint}")
    with _open(single) as opened:
        return {name: single for name in opened.keys()}  # noqa: SIM118 (not a mapping)


def _names_in(files: Iterable[Path]) -> dict[str, Path]:
    """Map every tensor of some files to its file."""
    names: dict[str, Path] = {}
    for file in files:
        with _open(file) as opened:
            names.update(dict.fromkeys(opened.keys(), file))
    return names


def shard_names(folder: Path) -> list[str]:
    """Return the names of a checkpoint's files of weights, whether they are there or not.

    Raises:
        ModelError: the index is damaged or points outside.
    """
    return list(dict.fromkeys(weight_map(folder).values())) or [SINGLE]


def weight_map(folder: Path) -> dict[str, str]:
    """Return the file of each tensor by the index, by name; empty where there is none.

    Raises:
        ModelError: the index is damaged or points outside.
    """
    index = folder / INDEX
    return _read_index(index) if index.is_file() else {}


def _read_index(index: Path) -> dict[str, str]:
    """Return the file of each tensor, by name; an index may name files of its own folder only."""
    if index.stat().st_size > MAX_INDEX_BYTES:
        raise ModelError(f"{index} is larger than {MAX_INDEX_BYTES >> 20} MiB: not an index")
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        items = {str(name): str(file) for name, file in weight_map.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{index} is not a safetensors index: {error!r}") from error
    for name, file in items.items():
        # A file name is all an index may hold: no folder, no way out of this one.
        if PurePosixPath(file).name != file or "\\" in file or not file.endswith(".safetensors"):
            raise ModelError(f"{index}: tensor {name!r} names the illegal file {file!r}")
    return items


def _indexed_files(folder: Path, index: Path) -> dict[str, Path]:
    files = {name: folder / file for name, file in _read_index(index).items()}
    for missing in sorted({f.name for f in files.values() if not f.is_file()})[:1]:
        raise ModelError(f"{index} names {missing}, which is not in {folder}")
    return files


def headers_of(files: Iterable[str | Path]) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Return shape and dtype of every tensor of some safetensors files.

    Raises:
        ModelError: a file is damaged, or of another kind.
    """
    headers: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}
    for file in map(Path, files):
        with _open(file) as opened:
            names = list(opened.keys())
        headers.update(_file_headers(file, names))
    return headers


def _open(file: Path) -> safe_open:
    try:
        try:
            return safe_open(file, framework="pt", device="cpu")
        except RuntimeError:
            # torch maps a file to be written to, which Linux refuses beyond the memory there is.
            return safe_open(file, framework="pt", device="cpu", backend="pread")
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file} is damaged or not a safetensors file: {error}") from error


def _file_headers(
    file: Path, names: Iterable[str]
) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    headers = {}
    with _open(file) as opened:
        present = set(opened.keys())
        for name in names:
            if name not in present:
                raise ModelError(f"{file} lacks the tensor {name!r} that the index promises")
            part = opened.get_slice(name)
            dtype = stored_dtype(str(file), name, part.get_dtype())
            headers[name] = (tuple(part.get_shape()), dtype)
    return headers


def stored_dtype(file: str, name: str, dtype: str) -> torch.dtype:
    """Return the dtype that a safetensors header names for a tensor.

    Raises:
        ModelError: it is none that can be read.
    """
    if dtype not in DTYPES:
        raise ModelError(
            f"{file}: tensor {name!r} has dtype {dtype}, which cannot be quantized from; "
            f"readable: {', '.join(DTYPES)}"
        )
    return DTYPES[dtype]
