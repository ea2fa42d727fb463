"""A model's own tensors, read back from a GGUF file of which its config is known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autoround.errors import FormatError
from autoround.gguf.arch import Target, restore, targets
from autoround.gguf.container import open_file


class Reader:
    """An opened file; tensors are unpacked one by one, by the ``gguf`` package's own code."""

    def __init__(
        self, path: Path, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
    ) -> None:
        """Open a file and match it with a model.

        config: as transformers writes it. shapes: of the model's own tensors, by name.

        Raises:
            FormatError: the file is damaged, or is not of this model.
        """
        self._path, self._shapes = path, shapes
        self._tensors = {tensor.name: tensor for tensor in open_file(path).tensors}
        self._targets: dict[str, list[Target]] = {}
        for target in targets(config, shapes):
            self._check(target)
            for source in target.sources:
                self._targets.setdefault(source, []).append(target)

    def _check(self, target: Target) -> None:
        held = self._tensors.get(target.name)
        got = None if held is None else tuple(int(n) for n in reversed(held.shape))
        if got != target.shape:
            raise FormatError(
                f"{self._path}: tensor {target.name} should have shape {target.shape}; the file "
                f"has {got or 'none of this name'}"
            )

    def names(self) -> list[str]:
        """Return the model's own tensors that the file holds."""
        return list(self._targets)

    def read(self, name: str) -> Tensor:
        """Return one of the model's own tensors in float32.

        Raises:
            FormatError: it holds NaN or infinity.
        """
        parts = [(target, self._unpacked(target)) for target in self._targets[name]]
        tensor = restore(parts, self._shapes[name])
        if not bool(torch.isfinite(tensor).all()):
            raise FormatError(f"{self._path}: tensor {parts[0][0].name} holds NaN or infinity")
        return tensor

    def _unpacked(self, target: Target) -> Tensor:
        import gguf

        held = self._tensors[target.name]
        values = gguf.quants.dequantize(held.data, held.tensor_type)
        return torch.from_numpy(np.array(values, dtype=np.float32)).reshape(target.shape)
