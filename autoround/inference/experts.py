"""Experts of a layer that hold packed weights and unpack them when they run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from autoround.inference.linear import QuantLinear
from autoround.model.experts import ExpertTensor


class QuantExperts(nn.Module):
    """The model's own module of experts, given its stacked weights for the time of a call.

    It stands in the place of that module and has its parameters, buffers and children; packed
    matrices are children beside them under the names that files have, such as ``3.gate_proj``.
    So paths of modules and the keys of a state dict are a checkpoint's, with nothing of ours.
    """

    inner: nn.Module

    def __init__(self, inner: nn.Module, tensors: Mapping[str, ExpertTensor]) -> None:
        """tensors: the stacked weights that are packed, by their names in the module."""
        super().__init__()
        # No child of this one: it would show in every path.
        self.__dict__["inner"] = inner
        for name in tensors:
            del inner._parameters[name]
        self._parameters = inner._parameters
        self._buffers = inner._buffers
        self._non_persistent_buffers_set = inner._non_persistent_buffers_set
        self._modules = inner._modules
        self._tensors = dict(tensors)
        #: Of each stacked weight, the paths of its matrices by (part, expert).
        self._paths: dict[str, dict[tuple[int, int], str]] = {name: {} for name in tensors}

    def put(self, name: str, place: tuple[int, int], path: str, layer: QuantLinear) -> None:
        """Take one matrix of one expert.

        Args:
            name: of the stacked weight.
            place: its part and its expert.
            path: of the matrix in this module, such as ``3.gate_proj``.
            layer: the matrix.
        """
        layer.of_experts = True
        self._paths[name][place] = path
        parent: nn.Module = self
        *above, last = path.split(".")
        for step in above:
            if step not in parent._modules:
                parent.add_module(step, nn.Module())
            parent = parent.get_submodule(step)
        parent.add_module(last, layer)

    def stacked_names(self) -> tuple[str, ...]:
        """Return the names that the packed weights have in the model's own module."""
        return tuple(self._tensors)

    def dense(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Return the stacked weights, unpacked, by their names in the module."""
        weights = {}
        for name, tensor in self._tensors.items():
            matrices = {}
            for place, path in self._paths[name].items():
                layer = self.get_submodule(path)
                assert isinstance(layer, QuantLinear)
                matrices[place] = layer.dense().to(dtype)
            weights[name] = tensor.merge(matrices)
        return weights

    def unpack(self, dtype: torch.dtype) -> nn.Module:
        """Return the model's own module with its weights unpacked; this one is spent."""
        weights = self.dense(dtype)
        for path in {p.split(".")[0] for paths in self._paths.values() for p in paths.values()}:
            del self.inner._modules[path]
        for name, weight in weights.items():
            self.inner._parameters[name] = nn.Parameter(weight, requires_grad=False)
        return self.inner.train(self.training)

    def train(self, mode: bool = True) -> QuantExperts:
        """Put the model's own module into the mode, too."""
        super().train(mode)
        self.inner.training = mode
        return self

    def _run(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        weights = self.dense(hidden_states.dtype)
        return functional_call(self.inner, weights, (hidden_states, *args), kwargs)

    #: Runs the experts as the model's own module does, whatever its code gives them.
    forward = _run

    def __getattr__(self, name: str) -> Any:
        """Look up what the model's code asks of its experts, such as how many there are."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if "inner" not in self.__dict__:  # a copy that is being made
                raise
            return getattr(self.__dict__["inner"], name)
