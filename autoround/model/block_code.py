"""What code a block runs: equal for blocks that differ in their tensors alone."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from torch import Tensor, nn

from autoround.model.block_calls import Call

#: Attributes that number a block and change nothing else: caches are told by them.
NUMBERS = frozenset({"layer_idx", "layer_index", "layer_id"})


def module_code(block: nn.Module) -> Hashable:
    """Return what a block's modules are, without their tensors.

    Args:
        block: its module.

    Returns:
        Equal for blocks of the same classes with the same settings. Settings that are objects of
        their own in each block make blocks differ.
    """
    return tuple(
        (path, type(module), _settings(module), _shapes(module))
        for path, module in block.named_modules()
    )


def call_code(call: Call) -> tuple[Hashable, dict[str, Tensor]]:
    """Return what a block is called with: what is no tensor, and the tensors by their places.

    Args:
        call: the arguments beside the hidden states.
    """
    tensors = {str(n): leaf for n, leaf in enumerate(call.leaves) if isinstance(leaf, Tensor)}
    rest = tuple(None if isinstance(leaf, Tensor) else _setting(leaf) for leaf in call.leaves)
    return (tuple(sorted(call.kwargs)), len(call.args), rest), tensors


def _settings(module: nn.Module) -> Hashable:
    """Return a module's attributes that its code may ask for."""
    settings = {name: value for name, value in vars(module).items() if name not in NUMBERS}
    # What torch keeps of a module are dictionaries of its own; hooks count by their number.
    return tuple(
        (name, len(value) if isinstance(value, dict) and name.startswith("_") else _setting(value))
        for name, value in sorted(settings.items())
    )


def _shapes(module: nn.Module) -> Hashable:
    owned = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    return tuple((name, tuple(tensor.shape), tensor.dtype) for name, tensor in owned)


def _setting(value: Any) -> Hashable:
    """Return a value that can be compared: plain ones by themselves, others by who they are."""
    if value is None or isinstance(value, bool | int | float | str):
        return (type(value), value)
    if isinstance(value, tuple | list):
        return (type(value), tuple(_setting(each) for each in value))
    if isinstance(value, set | frozenset) and all(isinstance(each, str) for each in value):
        return (type(value), frozenset(value))
    # Functions and configs are one object for all blocks.
    return (type(value), id(value))
