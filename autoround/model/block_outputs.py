"""Outputs of blocks, seen while a model runs by its own code."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from autoround.model.runner import hidden_of


@contextmanager
def watch_outputs(
    model: nn.Module, blocks: Iterable[str], take: Callable[[str, Tensor], None]
) -> Iterator[None]:
    """Hand over the hidden states that blocks put out, for a while.

    Args:
        model: whose own forward runs meanwhile.
        blocks: paths of the blocks.
        take: is given a block's path and its hidden states, which later code may change in place;
            not called for a block that puts out no tensor.
    """

    def note(path: str, module: nn.Module, args: Any, output: Any) -> None:
        hidden = hidden_of(output)
        if isinstance(hidden, Tensor):
            take(path, hidden)

    handles = [
        model.get_submodule(path).register_forward_hook(partial(note, path)) for path in blocks
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
