"""What a change of a layer does to a block's run: hooks on its modules while a context lasts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from autoround.core.sensitivity import squared_effects
from autoround.model.stacked_experts import as_matrix, from_matrix
from autoround.types import LayerPlan, Scheme


@dataclass(frozen=True, slots=True)
class ScoredModule:
    """What is judged at once: a linear layer, or all stacked experts of a module.

    options: the schemes that it can be held in.
    """

    name: str
    layers: tuple[LayerPlan, ...]
    options: tuple[Scheme, ...]


@dataclass(slots=True)
class Perturbation:
    """A part rounded to one option, and the squares of what that did to the answers so far.

    block: path of its block. rounded: weights [out, in] by layer, in the compute dtype.
    calls: how often its module was run.
    """

    part: ScoredModule
    scheme: Scheme
    block: str
    rounded: Mapping[str, Tensor]
    total: float = 0.0
    calls: int = 0

    @property
    def path(self) -> str:
        """The module that is watched, inside the block."""
        return self.part.name.removeprefix(self.block + ".")


@contextmanager
def accumulate_effects(
    block: nn.Module, moves: Sequence[Perturbation], *, tensors: Mapping[str, Tensor]
) -> Iterator[None]:
    """Add up what moves do, whenever gradients go back through the block.

    tensors: of the block, by their names inside it.
    """

    def hook_for(path: str) -> Any:
        own = [move for move in moves if move.path == path]

        def hook(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
        ) -> None:
            if isinstance(out, Tensor) and out.requires_grad:
                seen = _ModuleCall(module, _detached(args), _detached(kwargs), out.detach())
                out.register_hook(partial(_add, own, seen, tensors))

        return hook

    paths = dict.fromkeys(move.path for move in moves)
    handles = [
        block.get_submodule(path).register_forward_hook(hook_for(path), with_kwargs=True)
        for path in paths
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True, slots=True)
class _ModuleCall:
    """One call of a module."""

    module: nn.Module
    args: Any
    kwargs: Any
    out: Tensor


def _detached(values: Any) -> Any:
    if isinstance(values, tuple):
        return tuple(map(_detached, values))
    if isinstance(values, dict):
        return {key: _detached(value) for key, value in values.items()}
    return values.detach() if isinstance(values, Tensor) else values


@torch.no_grad()
def _add(
    moves: Sequence[Perturbation], seen: _ModuleCall, tensors: Mapping[str, Tensor], grad: Tensor
) -> None:
    for move in moves:
        move.calls += 1
        move.total += squared_effects(grad, _change(move, seen, tensors))


def _change(move: Perturbation, seen: _ModuleCall, tensors: Mapping[str, Tensor]) -> Tensor:
    """Return by how much a module's output changes when its part is rounded."""
    first = move.part.layers[0]
    if not first.experts:
        inside = first.tensor.removeprefix(move.block + ".")
        difference = move.rounded[first.name] - as_matrix(first, tensors[inside])
        given: Tensor = seen.args[0]
        return given @ difference.t()
    held = {
        name.removeprefix(move.path + "."): tensor
        for name, tensor in tensors.items()
        if name.startswith(move.path + ".")
    }
    for layer in move.part.layers:
        inside = layer.tensor.removeprefix(f"{move.block}.{move.path}.")
        held[inside] = from_matrix(layer, move.rounded[layer.name])
    out: Tensor = functional_call(seen.module, held, seen.args, seen.kwargs)
    return out - seen.out
