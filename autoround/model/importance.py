"""How strongly each input channel of a layer is driven: the diagonal of its Hessian."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class Importance:
    """Sums of squared activations by layer, over the tokens that count."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._mask: Tensor | None = None

    def mask(self, mask: Tensor | None) -> None:
        """Set which positions of the next batch count: bool [batch, seq], or None for all."""
        self._mask = mask

    def add(self, name: str, activations: Tensor) -> None:
        """Add one batch of a layer's inputs: [batch, seq, in] or [tokens, in]."""
        flat = activations.detach()
        if self._mask is not None and flat.shape[:-1] == self._mask.shape:
            flat = flat[self._mask]
        squares = flat.reshape(-1, flat.shape[-1]).float().square().sum(0)
        self._sums[name] = self._sums[name] + squares if name in self._sums else squares

    def get(self, name: str) -> Tensor | None:
        """Return a layer's importance, float32 [in]; None when it was never run."""
        return self._sums.get(name)


@contextmanager
def observing(block: nn.Module, names: Sequence[str], *, into: Importance) -> Iterator[None]:
    """Record the inputs of a block's layers while the context lasts.

    names: module paths inside the block.
    """

    def hook_for(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            if args and isinstance(args[0], torch.Tensor):
                into.add(name, args[0])

        return hook

    handles = [block.get_submodule(n).register_forward_pre_hook(hook_for(n)) for n in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
