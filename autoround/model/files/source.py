"""Weights by name, a few at a time, from safetensors files or a model in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol, TypeAlias

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from autoround.core.dtypes import Header, tensor_headers
from autoround.errors import ModelError
from autoround.model.files.stored import StoredFiles, stored_in

#: Shape and dtype of tensors by name.
Headers: TypeAlias = Mapping[str, Header]


class WeightSource(Protocol):
    """Where a model's tensors come from, under the names the checkpoint gives them."""

    def headers(self) -> Headers:
        """Return shape and dtype of every tensor, without reading any."""

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Read tensors onto the CPU in their stored dtype."""


class CheckpointSource(StoredFiles):
    """A folder of safetensors files; only what is asked for leaves the disk."""

    _tensor_headers: Headers | None = None

    def headers(self) -> Headers:
        """Return shape and dtype of every tensor, from the files' headers.

        Raises:
            ModelError: a file is damaged, lacks a tensor its index promises, or holds a
                dtype that cannot be read.
        """
        if self._tensor_headers is None:
            self._tensor_headers = tensor_headers(self.header_names())
        return self._tensor_headers

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


def headers_of(files: Iterable[str | Path]) -> dict[str, Header]:
    """Return shape and dtype of every tensor of some safetensors files.

    Raises:
        ModelError: a file is damaged, or of another kind.
    """
    return tensor_headers(stored_in(files))


def _open(file: Path) -> safe_open:
    try:
        try:
            return safe_open(file, framework="pt", device="cpu")
        except RuntimeError:
            # torch maps a file to be written to, which Linux refuses beyond the memory there is.
            return safe_open(file, framework="pt", device="cpu", backend="pread")
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file} is damaged or not a safetensors file: {error}") from error
