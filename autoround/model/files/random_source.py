"""Random weights where there are none yet, for work in which only their sizes matter."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from autoround.model.files.source import Headers

#: Standard deviation, about that of the weights of a trained model.
SPREAD = 0.02


class RandomSource:
    """Tensors of a checkpoint's names, shapes and dtypes, drawn anew when they are read.

    Args:
        headers: of the checkpoint.
    """

    def __init__(self, headers: Headers) -> None:
        self._headers = headers

    def headers(self) -> Headers:
        """Return shape and dtype of every tensor."""
        return self._headers

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Draw tensors on the CPU; those of whole numbers are zeros.

        Args:
            names: as the checkpoint has them.
        """
        return {name: _draw(*self._headers[name]) for name in names}


def _draw(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    if not dtype.is_floating_point:
        return torch.zeros(shape, dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(shape, generator=generator) * SPREAD).to(dtype)
