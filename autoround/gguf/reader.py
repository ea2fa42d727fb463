"""Read a model's tensors from a GGUF file, given the model's config."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autoround.errors import FormatError
from autoround.gguf.arch import Target, restore, targets
from autoround.gguf.opened import open_file


class Reader:
    """An open file; tensors are dequantized one by one, by the ``gguf`` package."""

    def __init__(
        self, path: Path, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
    ) -> None:
        """Open a file and match it with a model.

        Args:
            path: The file.
            config: The model's config as transformers writes it.
            shapes: Shapes of the model's own tensors, by name.

        Raises:
            FormatError: The file is damaged, or is not of this model.
        """
        self._path, self._shapes = path, shapes
        self._tensors = {tensor.name: tensor for tensor in open_file(path).tensors}
        self._targets: dict[str, list[Target]] = {}
        for target in targets(config, shapes):
            self._check(target)
            for source in target.sources:
                self._targets.setdefault(source, []).append(target)

    def _check(self, target: Target) -> None:
        tensor = self._tensors.get(target.name)
        # GGUF lists axes from the innermost one.
        shape = None if tensor is None else tuple(int(n) for n in reversed(tensor.shape))
        if shape != target.shape:
            raise FormatError(
                f"{self._path}: tensor {target.name} should have shape {target.shape}; the file "
                f"has {shape or 'none of this name'}"
            )

    def names(self) -> list[str]:
        """Return the model's own tensors that the file holds."""
        return list(self._targets)

    def read(self, name: str) -> Tensor:
        """Return one of the model's own tensors in float32, in the model's shape.

        Raises:
            FormatError: The tensor holds NaN or infinity.
        """
        parts = [(target, self._dequantize(target)) for target in self._targets[name]]
        tensor = restore(parts, self._shapes[name])
        if not bool(torch.isfinite(tensor).all()):
            raise FormatError(f"{self._path}: tensor {parts[0][0].name} holds NaN or infinity")
        return tensor

    def _dequantize(self, target: Target) -> Tensor:
        import gguf

        tensor = self._tensors[target.name]
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        # A copy: float32 tensors come as a read-only view of the mapped file.
        return torch.from_numpy(np.array(values, dtype=np.float32)).reshape(target.shape)
