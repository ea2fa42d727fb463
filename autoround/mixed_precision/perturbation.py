"""Hooks that accumulate the effect of a layer's quantization error on the loss."""

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
    """What is scored at once: a linear layer, or all stacked experts of a module.

    name: of the module. path: of it inside its block. options: the schemes that it can have.
    """

    name: str
    path: str
    layers: tuple[LayerPlan, ...]
    options: tuple[Scheme, ...]


@dataclass(slots=True)
class Perturbation:
    """A module rounded to one option, and its squared effects on the loss so far.

    rounded: weights [out, in] by layer, in the compute dtype. total: sum of squared effects.
    calls: how often its module was run.
    """

    module: ScoredModule
    scheme: Scheme
    rounded: Mapping[str, Tensor]
    total: float = 0.0
    calls: int = 0


@contextmanager
def accumulate_effects(
    block: nn.Module, perturbations: Sequence[Perturbation], *, tensors: Mapping[str, Tensor]
) -> Iterator[None]:
    """Add up what perturbations do to the loss, whenever gradients go back through a block.

    Args:
        block: the module whose parts are perturbed.
        perturbations: their totals are changed in place.
        tensors: of the block, by param.
    """

    def hook_for(path: str) -> Any:
        of_module = [one for one in perturbations if one.module.path == path]

        def hook(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
        ) -> None:
            if isinstance(out, Tensor) and out.requires_grad:
                call = _ModuleCall(module, _detach(args), _detach(kwargs), out.detach())
                # The effect needs the gradient for this very output, which comes later.
                out.register_hook(partial(_accumulate, of_module, call, tensors))

        return hook

    paths = dict.fromkeys(one.module.path for one in perturbations)
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


def _detach(values: Any) -> Any:
    if isinstance(values, tuple):
        return tuple(map(_detach, values))
    if isinstance(values, dict):
        return {key: _detach(value) for key, value in values.items()}
    return values.detach() if isinstance(values, Tensor) else values


@torch.no_grad()
def _accumulate(
    perturbations: Sequence[Perturbation],
    call: _ModuleCall,
    tensors: Mapping[str, Tensor],
    grad: Tensor,
) -> None:
    for perturbation in perturbations:
        perturbation.calls += 1
        perturbation.total += squared_effects(grad, _output_change(perturbation, call, tensors))


def _output_change(
    perturbation: Perturbation, call: _ModuleCall, tensors: Mapping[str, Tensor]
) -> Tensor:
    """Return by how much a module's output changes when its weights are rounded."""
    module = perturbation.module
    first = module.layers[0]
    if not first.experts:
        difference = perturbation.rounded[first.name] - as_matrix(first, tensors[first.param])
        inputs: Tensor = call.args[0]
        return inputs @ difference.t()
    # What experts do is not linear in their weights: the module is run again with rounded ones.
    prefix = module.path + "."
    weights = {
        name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)
    }
    for layer in module.layers:
        weights[layer.param[len(prefix) :]] = from_matrix(layer, perturbation.rounded[layer.name])
    out: Tensor = functional_call(call.module, weights, call.args, call.kwargs)
    return out - call.out
