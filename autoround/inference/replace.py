"""Empty packed layers in place of a model's own, for a loader to fill."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from autoround.errors import FormatError
from autoround.inference.experts import QuantExperts
from autoround.inference.linear import QuantLinear
from autoround.inference.opening import Opened, Packed
from autoround.model.blocks import expected, is_transposed


def replace_layers(
    model: nn.Module, opened: Opened, *, dtype: torch.dtype | None = None
) -> dict[str, str]:
    """Put empty quantized layers where the checkpoint has some.

    Args:
        model: its modules, on meta.
        opened: the checkpoint.
        dtype: of biases that are not filled yet; None for that of the files.

    Returns:
        The names in the files of all of them, by their paths in the model.

    Raises:
        FormatError: the checkpoint has none for this model, or their tensors do not fit.
    """
    if not opened.linears and not opened.experts:
        raise FormatError("the quantization_config names no layer of this model")
    files = _replace_linears(model, opened) | _replace_experts(model, opened)
    headers = opened.files.headers()
    for path, file in files.items():
        layer = model.get_submodule(path)
        # Loaders convert what they read to what they find.
        for part, buffer in list(layer.named_buffers()):
            header = headers.get(f"{file}.{part}")
            check_header(header, buffer, f"tensor {file}.{part}")
            stored = buffer.dtype if header is None else header[1]
            layer._buffers[part] = buffer.to(dtype if part == "bias" and dtype else stored)
    return files


def _replace_linears(model: nn.Module, opened: Opened) -> dict[str, str]:
    """Put the packed layers that are modules of the model."""
    shapes = expected(model).shapes
    headers = opened.files.headers()
    files = {}
    for name, packed in opened.linears.items():
        plain: Any = model.get_submodule(name)
        # Some programs write a bias for layers that have none in the model.
        bias = plain.bias is not None or f"{packed.file}.bias" in headers
        layer = _empty(packed, shapes[name], bias=bias)
        layer.transposed = is_transposed(plain)
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, layer)
        files[name] = packed.file
    return files


def _replace_experts(model: nn.Module, opened: Opened) -> dict[str, str]:
    """Put modules of experts that hold one packed layer for each matrix of the files."""
    stacked: dict[str, list[str]] = {}
    for name in opened.experts:
        path, _, last = name.rpartition(".")
        stacked.setdefault(path, []).append(last)
    files = {}
    for path, names in stacked.items():
        tensors = {n: opened.stacked[f"{path}.{n}"] for n in names}
        experts = QuantExperts(model.get_submodule(path), tensors)
        parent, _, last = path.rpartition(".")
        setattr(model.get_submodule(parent), last, experts)
        for name, tensor in tensors.items():
            matrices = opened.experts[f"{path}.{name}"]
            rows = tensor.shape[0] // len({part for part, _ in matrices})
            for (part, expert), packed in matrices.items():
                inner = _path_of_expert(packed.file, expert, tensor.parts[part])
                layer = _empty(packed, (rows, tensor.shape[1]), bias=False)
                experts.put(name, (part, expert), inner, layer)
                files[f"{path}.{inner}"] = packed.file
    return files


def _empty(packed: Packed, shape: tuple[int, int], *, bias: bool) -> QuantLinear:
    scheme, packing = packed.stored
    return QuantLinear(shape, scheme, packing=packing, bias=bias)


def _path_of_expert(file: str, expert: int, part: str) -> str:
    """Return the path of an expert's matrix in its module: the end of its name in the files."""
    steps = file.split(".")
    numbers = [i for i, step in enumerate(steps[:-1]) if step == str(expert)]
    return ".".join(steps[numbers[-1] :]) if numbers else f"{expert}.{part}"


def check_header(
    header: tuple[tuple[int, ...], torch.dtype] | None, wanted: torch.Tensor, what: str
) -> None:
    """Check a stored tensor against what the model has in its place.

    Args:
        header: its shape and dtype; None where the files have none.
        wanted: the model's tensor, which may be on meta.
        what: names it in the error.

    Those that the model class leaves out on purpose are.

    Raises:
        FormatError: it is missing, or has another shape or dtype.
    """
    shape = tuple(wanted.shape)
    if header is None or header[0] != shape:
        stored = "nothing" if header is None else header[0]
        raise FormatError(f"{what} should have shape {shape}; the files have {stored}")
    # Floating-point tensors are converted, integers must be of the very kind.
    if header[1] != wanted.dtype and not (
        header[1].is_floating_point and wanted.is_floating_point()
    ):
        raise FormatError(f"{what} should have dtype {wanted.dtype}; the files have {header[1]}")
