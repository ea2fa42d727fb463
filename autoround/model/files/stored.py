"""Checkpoints of safetensors files by their headers alone: which tensors there are, and where.

Nothing here makes a tensor, so that what reads headers only need not import what would.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from safetensors import SafetensorError, safe_open

from autoround.errors import ModelError
from autoround.storage.dtypes import SAFETENSORS, StoredHeader, StoredHeaders

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
#: A larger index would name more tensors than any model has.
MAX_INDEX_BYTES = 256 << 20


class HeaderSource(Protocol):
    """The headers of a checkpoint's tensors, under the names that its files give them."""

    def header_names(self) -> StoredHeaders:
        """Return shape and name of the dtype of every tensor, without reading any."""


class StoredFiles:
    """The headers of a folder of safetensors files."""

    def __init__(self, folder: Path, *, files: Iterable[str | Path] | None = None) -> None:
        """Take a folder's files, or some of them.

        Args:
            folder: The checkpoint's.
            files: Safetensors files to take all tensors of; None for those that the folder's index
                names.

        Raises:
            ModelError: There are none, or one is damaged.
        """
        self._files = tensor_files(folder) if files is None else names_in(map(Path, files))
        self._headers: dict[str, StoredHeader] | None = None

    def header_names(self) -> StoredHeaders:
        """Return shape and name of the dtype of every tensor, from the files' headers.

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


def names_in(files: Iterable[Path]) -> dict[str, Path]:
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


def stored_in(files: Iterable[str | Path]) -> dict[str, StoredHeader]:
    """Return shape and name of the dtype of every tensor of some safetensors files.

    Raises:
        ModelError: a file is damaged, or of another kind.
    """
    headers: dict[str, StoredHeader] = {}
    for file in map(Path, files):
        with _open(file) as opened:
            names = list(opened.keys())
        headers.update(_file_headers(file, names))
    return headers


def _open(file: Path) -> Any:
    """Open a file for its header; as arrays its tensors would come, were any read."""
    try:
        return safe_open(file, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file} is damaged or not a safetensors file: {error}") from error


def _file_headers(file: Path, names: Iterable[str]) -> dict[str, StoredHeader]:
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


def stored_dtype(file: str, name: str, dtype: str) -> str:
    """Return the name of the dtype that a safetensors header has for a tensor.

    Raises:
        ModelError: it is none that can be read.
    """
    if dtype not in SAFETENSORS:
        raise ModelError(
            f"{file}: tensor {name!r} has dtype {dtype}, which cannot be quantized from; "
            f"readable: {', '.join(SAFETENSORS)}"
        )
    return SAFETENSORS[dtype]
