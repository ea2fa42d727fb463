"""Decoder blocks and their weight matrices, found by structure rather than by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.func import functional_call

from autoround.errors import ModelError
from autoround.model.experts import ExpertTensor, stacked_in
from autoround.model.positions import hidden_size
from autoround.types import Expected

#: Why routers are kept.
ROUTER = "router of a mixture of experts"


@dataclass(frozen=True, slots=True)
class Matrix:
    """A weight matrix of the model.

    shape is (out, in); ``transposed`` marks storage as [in, out]; ``why_kept`` is empty
    for a matrix that may be quantized, else the structural reason against it.
    experts: how many are stacked in it, with the rows of all in its shape; else 0.
    """

    name: str
    shape: tuple[int, int]
    transposed: bool
    bias: bool
    why_kept: str = ""
    experts: int = 0
    interleaved: bool = False


def is_transposed(module: nn.Module) -> bool:
    """Tell whether a module is GPT-2's Conv1D: a linear layer that stores [in, out]."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, Conv1D)


def is_matrix(module: nn.Module) -> bool:
    """Tell whether a module is a plain linear layer, or a subclass that computes the same.

    torch's own subclasses are parts of larger modules, which use their weights by themselves.
    """
    if type(module) is nn.Linear or is_transposed(module):
        return True
    if not isinstance(module, nn.Linear) or type(module).__module__.startswith("torch."):
        return False
    return _computes_linear(module)


def _computes_linear(module: nn.Linear) -> bool:
    """Try a subclass of Linear on a small product."""
    weight = torch.linspace(-1.0, 1.0, 15).reshape(3, 5)
    given = {name: weight if name == "weight" else weight[:, 0] for name in module._parameters}
    given = {name: given[name] for name, held in module._parameters.items() if held is not None}
    x = torch.linspace(-2.0, 1.0, 10).reshape(2, 5)
    try:
        with torch.no_grad():
            out = functional_call(module, given, (x,))
    except (RuntimeError, TypeError, ValueError, AttributeError):
        return False
    wanted = nn.functional.linear(x, weight, given.get("bias"))
    return isinstance(out, torch.Tensor) and torch.equal(out, wanted)


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

    They are the entries of the module list that holds most weights, among lists whose every
    entry has linear layers and that are not inside another such list (a list of experts is).
    The search begins beside the token embeddings and widens from there, so that a vision
    tower, which has such lists as well, is not taken for the language model.

    Raises:
        ModelError: there is no such list.
    """
    for path in _around_embeddings(model):
        candidates = block_lists(model.get_submodule(path), path)
        if candidates:
            name, found = max(candidates, key=lambda item: _weights(item[1]))
            return [f"{name}.{i}" for i in range(len(found))]
    raise ModelError(
        f"no decoder blocks found in {type(model).__name__}: no list of modules whose "
        "every entry holds linear layers"
    )


def _around_embeddings(model: nn.Module) -> list[str]:
    """Return the modules that hold the token embeddings, from the nearest to the model itself."""
    try:
        tokens = model.get_input_embeddings()  # type: ignore[operator]
    except (AttributeError, NotImplementedError, TypeError):
        return [""]
    path = next((name for name, module in model.named_modules() if module is tokens), "")
    found = []
    while path:
        path = path.rpartition(".")[0]
        found.append(path)
    return found or [""]


def head_path(model: nn.Module) -> str:
    """Return the path of the output head, empty where a model has none that is a linear layer."""
    try:
        head = model.get_output_embeddings()  # type: ignore[operator]
    except (AttributeError, NotImplementedError, TypeError):
        return ""
    if not isinstance(head, nn.Module) or not is_matrix(head):
        return ""
    return next((name for name, module in model.named_modules() if module is head), "")


def embeddings_path(model: nn.Module) -> str:
    """Return the path of the token embeddings, empty where a model has none of its own."""
    try:
        tokens = model.get_input_embeddings()  # type: ignore[operator]
    except (AttributeError, NotImplementedError, TypeError):
        return ""
    if not isinstance(tokens, nn.Embedding):
        return ""
    return next((name for name, module in model.named_modules() if module is tokens), "")


def vision_blocks(model: nn.Module, decoder: Sequence[str]) -> list[str]:
    """Return the paths of all other lists of blocks: vision and audio towers, resamplers."""
    own = decoder[0].rpartition(".")[0]
    return [
        f"{path}.{i}"
        for path, found in block_lists(model, "")
        for i in range(len(found))
        if path != own
    ]


def block_lists(module: nn.Module, path: str) -> list[tuple[str, nn.ModuleList]]:
    """Return the lists of modules whose every entry has linear layers, by their paths."""
    found: list[tuple[str, nn.ModuleList]] = []
    for name, child in module.named_children():
        child_path = f"{path}.{name}" if path else name
        if isinstance(child, nn.ModuleList) and len(child) and all(map(_has_matrix, child)):
            found.append((child_path, child))
        else:
            found += block_lists(child, child_path)
    return found


def _has_matrix(module: nn.Module) -> bool:
    return any(is_matrix(m) or stacked_in(m, "", 0) for m in module.modules())


def _weights(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def matrices(model: nn.Module, prefix: str) -> list[Matrix]:
    """List the weight matrices of the module at ``prefix``, in module order."""
    root = model.get_submodule(prefix) if prefix else model
    hidden = hidden_size(model)
    found = []
    for path, module in root.named_modules():
        name = ".".join(part for part in (prefix, path) if part)
        found += [_stacked(tensor) for tensor in stacked_in(module, name, hidden)]
        if is_matrix(module):
            found.append(_matrix(model, name, module))
        elif _is_router(model, name, module):
            weight = module.weight
            assert isinstance(weight, nn.Parameter)
            shape = (int(weight.shape[0]), int(weight.shape[1]))
            found.append(Matrix(name, shape, False, False, ROUTER))
    return found


def _stacked(tensor: ExpertTensor) -> Matrix:
    rows, columns = tensor.shape
    return Matrix(
        tensor.name,
        (tensor.count * rows, columns),
        tensor.transposed,
        False,
        experts=tensor.count,
        interleaved=tensor.interleaved,
    )


def _is_router(model: nn.Module, name: str, module: nn.Module) -> bool:
    """Tell whether a module decides which experts run: a small matrix beside them.

    Its few weights steer everything after it.
    """
    weight = getattr(module, "weight", None)
    if not isinstance(weight, nn.Parameter) or weight.dim() != 2 or weight.shape[0] > 1024:
        return False
    parent, _, own = name.rpartition(".")
    above = parent.rpartition(".")[0]
    if own == "experts":
        return False
    if parent and _experts_of(model, parent):
        return True
    # A router may be a module of its own around its matrix.
    return bool(above) and _experts_of(model, above) == weight.shape[0]


def _experts_of(model: nn.Module, path: str) -> int:
    """Return how many experts a module has, 0 where it has none."""
    experts = getattr(model.get_submodule(path), "experts", None)
    if isinstance(experts, nn.ModuleList):
        return len(experts)
    if not isinstance(experts, nn.Module):
        return 0
    return next((p.shape[0] for p in experts.parameters(recurse=False) if p.dim() == 3), 1)


def _matrix(model: nn.Module, name: str, module: nn.Module) -> Matrix:
    reason = ROUTER if _is_router(model, name, module) else ""
    return Matrix(name, _shape(module), is_transposed(module), module.bias is not None, reason)


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
