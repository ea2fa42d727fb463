"""Decoder blocks and their weight matrices, found by structure rather than by name."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from autoround.errors import ModelError
from autoround.types import Expected


@dataclass(frozen=True, slots=True)
class Matrix:
    """A weight matrix of the model.

    shape is (out, in); ``transposed`` marks storage as [in, out]; ``why_kept`` is empty
    for a matrix that may be quantized, else the structural reason against it.
    """

    name: str
    shape: tuple[int, int]
    transposed: bool
    bias: bool
    why_kept: str = ""


def is_transposed(module: nn.Module) -> bool:
    """Tell whether a module is GPT-2's Conv1D: a linear layer that stores [in, out]."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, Conv1D)


def is_matrix(module: nn.Module) -> bool:
    """Tell whether a module is a plain linear layer."""
    return type(module) is nn.Linear or is_transposed(module)


def expected(model: nn.Module) -> Expected:
    """Return what a model expects of its checkpoint; layers in module order."""
    shapes = {name: _shape(m) for name, m in model.named_modules() if is_matrix(m)}
    return Expected(shapes, tied_names(model), f"{getattr(model, 'base_model_prefix', '')}.")


def _shape(module: nn.Module) -> tuple[int, int]:
    weight = module.weight
    assert isinstance(weight, nn.Parameter)
    rows, columns = weight.shape
    return (columns, rows) if is_transposed(module) else (rows, columns)


def decoder_blocks(model: nn.Module) -> list[str]:
    """Return the paths of the decoder blocks, in order.

    They are the entries of the module list that holds most of the model's weights,
    among lists whose every entry has linear layers and that are not inside another
    such list (a list of experts is).

    Raises:
        ModelError: there is no such list.
    """
    candidates = _block_lists(model, "")
    if not candidates:
        raise ModelError(
            f"no decoder blocks found in {type(model).__name__}: no list of modules whose "
            "every entry holds linear layers"
        )
    best = max(candidates, key=lambda item: _weights(item[1]))
    return [f"{best[0]}.{i}" for i in range(len(best[1]))]


def _block_lists(module: nn.Module, path: str) -> list[tuple[str, nn.ModuleList]]:
    found: list[tuple[str, nn.ModuleList]] = []
    for name, child in module.named_children():
        child_path = f"{path}.{name}" if path else name
        if isinstance(child, nn.ModuleList) and len(child) and all(map(_has_matrix, child)):
            found.append((child_path, child))
        else:
            found += _block_lists(child, child_path)
    return found


def _has_matrix(module: nn.Module) -> bool:
    return any(is_matrix(m) or _fused_experts(m) for m in module.modules())


def _weights(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _fused_experts(module: nn.Module) -> list[str]:
    """Return the names of 3-D weights a module owns: experts stacked into one tensor."""
    return [n for n, p in module.named_parameters(recurse=False) if p.dim() == 3]


def matrices(model: nn.Module, prefix: str) -> list[Matrix]:
    """List the weight matrices of the module at ``prefix``, in module order."""
    root = model.get_submodule(prefix) if prefix else model
    found = []
    for path, module in root.named_modules():
        name = ".".join(part for part in (prefix, path) if part)
        for fused in _fused_experts(module):
            shape = getattr(module, fused).shape
            found.append(
                Matrix(
                    f"{name}.{fused}",
                    (int(shape[0] * shape[1]), int(shape[2])),
                    False,
                    False,
                    "experts stacked into one tensor are not quantized yet",
                )
            )
        if is_matrix(module):
            found.append(_matrix(model, name, module))
    return found


def _matrix(model: nn.Module, name: str, module: nn.Module) -> Matrix:
    shape = _shape(module)
    parent_name, _, own_name = name.rpartition(".")
    parent = model.get_submodule(parent_name) if parent_name else model
    reason = ""
    # A router decides which experts run; its few weights steer everything after it.
    if own_name != "experts" and hasattr(parent, "experts") and shape[0] <= 1024:
        reason = "router of a mixture of experts"
    return Matrix(name, shape, is_transposed(module), module.bias is not None, reason)


def tied_names(model: nn.Module) -> dict[str, str]:
    """Map every parameter that shares another one's storage to that other one's name."""
    first: dict[int, str] = {}
    tied = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) in first:
            tied[name] = first[id(parameter)]
        else:
            first[id(parameter)] = name
    return tied
