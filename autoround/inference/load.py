"""From an output folder back to a transformers model that answers."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoround.device.kernels import AUTO, check_backend
from autoround.device.protocol import Runtime
from autoround.device.registry import open_device
from autoround.errors import ModelError
from autoround.inference.experts import QuantExperts
from autoround.inference.fill import Filler, Place
from autoround.inference.kernels import advise
from autoround.inference.linear import QuantLinear
from autoround.inference.opening import Opened, open_packed
from autoround.inference.replace import replace_layers
from autoround.inference.state_names import forget_file_names, use_file_names
from autoround.model.build import build_empty
from autoround.model.files.gate_mark import warn_if_failed
from autoround.model.files.locate import find_model, locate_model, read_config, read_quantization


def load(
    model: str | Path,
    *,
    device: str = "auto",
    dtype: torch.dtype | None = None,
    dense: bool = False,
    backend: str = AUTO,
) -> Any:
    """Load a quantized model as a transformers model, ready to generate.

    model: an output folder of this program, or a hub id of one.
    dtype: of activations and kept tensors; None for the checkpoint's on an accelerator,
        and on a CPU float32, unless a measurement shows the checkpoint's to be faster.
    dense: unpack all weights at load time; needs the memory of the 16-bit model, and runs
        at its speed. Otherwise they stay packed.
    backend: the kernel that multiplies with packed weights, by name, or ``auto`` for the
        fastest one here (``autoround.device.kernels``).

    Raises:
        ModelError, FormatError, DeviceError: what is wrong, and where.
        UsageError: no kernel has that name.
    """
    check_backend(backend)
    folder = locate_model(model)
    warn_if_failed(folder)
    built, opened, packed = open_empty(folder)
    for note in opened.notes:
        warnings.warn(note, stacklevel=2)
    runtime = open_device(device)
    chosen = dtype or dtype_for(folder, runtime)
    lay_out = not dense and runtime.device.type != "meta"
    place = Place(runtime.device, backend) if lay_out else None
    filler = Filler.of(built, opened, packed, dtype=chosen, place=place)
    for path, module in built.named_modules():
        filler.fill(path, module)
    built.tie_weights()
    use_file_names(built, opened, packed)
    if dense:
        densify(built, chosen)
        del built.config.quantization_config
    advise(built)
    return built.to(runtime.device).eval()


def open_empty(folder: Path) -> tuple[Any, Opened, dict[str, str]]:
    """Build the class of a quantized checkpoint with empty packed layers in their places.

    Args:
        folder: of the checkpoint.

    Returns:
        The model, on meta; its checkpoint; and the names in the files of its packed layers, by
        their paths.

    Raises:
        ModelError, FormatError: what is wrong, and where.
    """
    config = read_config(folder)
    quantization = read_quantization(folder, config)
    if quantization is None:
        raise ModelError(f"{folder} is not quantized: its config has no quantization_config")
    built = build_empty(folder)
    opened = open_packed(folder, built, quantization)
    packed = replace_layers(built, opened)
    # What is saved again says so.
    built.config.quantization_config = dict(quantization)  # type: ignore[union-attr]
    return built, opened, packed


def dtype_for(model: str | Path, runtime: Runtime) -> torch.dtype:
    """Return the dtype to compute in: the checkpoint's, where float32 is not the faster one.

    Raises:
        ModelError: the model is not there, or its config names no dtype.
    """
    stored = _stored_dtype(read_config(find_model(model).folder))
    return stored if runtime.speeds()[0].dtype != torch.float32 else torch.float32


def _stored_dtype(config: Mapping[str, Any]) -> torch.dtype:
    name = str(config.get("dtype") or config.get("torch_dtype") or "bfloat16")
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise ModelError(f"config.json: dtype is {name!r}; legal: float16, bfloat16, float32")
    return dtype


def densify(model: nn.Module, dtype: torch.dtype) -> None:
    """Replace quantized layers by plain ones that hold the same weights, unpacked."""
    forget_file_names(model)
    for path, module in list(model.named_modules()):
        if isinstance(module, QuantExperts):
            plain: nn.Module = module.unpack(dtype)
        elif isinstance(module, QuantLinear) and not module.of_experts:
            plain = _plain_linear(module, dtype)
        else:
            continue
        parent, _, last = path.rpartition(".")
        setattr(model.get_submodule(parent), last, plain)


def _plain_linear(layer: QuantLinear, dtype: torch.dtype) -> nn.Module:
    """Make the layer that the model's class has in this place."""
    weight = layer.dense().to(dtype)
    bias: Any
    if layer.transposed:
        from transformers.pytorch_utils import Conv1D

        with torch.device("meta"):
            plain: Any = Conv1D(layer.out_features, layer.in_features)
        weight = weight.t().contiguous()
        bias = torch.zeros(layer.out_features, dtype=dtype, device=weight.device)
    else:
        plain = nn.Linear(
            layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta"
        )
        bias = plain.bias
    plain.weight = nn.Parameter(weight, requires_grad=False)
    if layer.bias is not None:
        bias = layer.bias.to(dtype)
    plain.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
    made: nn.Module = plain
    return made
