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

    packed: of each stacked weight, its matrices as ``PART-EXPERT``.
    """

    def __init__(self, inner: nn.Module, tensors: Mapping[str, ExpertTensor]) -> None:
        """tensors: the stacked weights that are packed, by their names in the module."""
        super().__init__()
        self.inner = inner
        self._tensors = dict(tensors)
        self.packed = nn.ModuleDict({name: nn.ModuleDict() for name in tensors})
        for name in tensors:
            del inner._parameters[name]

    def put(self, name: str, part: int, expert: int, layer: QuantLinear) -> str:
        """Take one matrix of one expert; returns its path in this module."""
        held = self.packed[name]
        assert isinstance(held, nn.ModuleDict)
        held[f"{part}-{expert}"] = layer
        return f"packed.{name}.{part}-{expert}"

    def dense(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Return the stacked weights, unpacked, by their names in the module."""
        found = {}
        for name, tensor in self._tensors.items():
            held = self.packed[name]
            assert isinstance(held, nn.ModuleDict)
            matrices = {}
            for key, layer in held.items():
                part, _, expert = key.partition("-")
                assert isinstance(layer, QuantLinear)
                matrices[int(part), int(expert)] = layer.dense().to(dtype)
            found[name] = tensor.merge(matrices)
        return found

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
            return getattr(super().__getattr__("inner"), name)
