"""From an output folder back to a transformers model that answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from autoround.device.kernels import AUTO, check_backend
from autoround.device.protocol import Runtime
from autoround.device.registry import open_device
from autoround.errors import FormatError, ModelError
from autoround.inference.kernels import advise
from autoround.inference.linear import QuantLinear
from autoround.inference.replace import replace_layers
from autoround.model.blocks import tied_names
from autoround.model.locate import locate_model, read_config, read_quantization
from autoround.model.skeleton import build_empty
from autoround.model.source import CheckpointSource


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
        fastest one here (:mod:`autoround.device.kernels`).

    Raises:
        ModelError, FormatError, DeviceError: what is wrong, and where.
        UsageError: no kernel has that name.
    """
    check_backend(backend)
    folder = locate_model(model)
    config = read_config(folder)
    quantization = read_quantization(folder, config)
    if quantization is None:
        raise ModelError(f"{folder} is not quantized: its config has no quantization_config")
    runtime = open_device(device)
    chosen = dtype or dtype_for(folder, runtime)
    built = build_empty(folder)
    headers = CheckpointSource(folder).headers()
    replace_layers(built, quantization, headers)
    packed = not dense and runtime.device.type != "meta"
    _fill(built, folder, chosen, place=Place(runtime.device, backend) if packed else None)
    if dense:
        densify(built, chosen)
    advise(built)
    return built.to(runtime.device).eval()


def dtype_for(model: str | Path, runtime: Runtime) -> torch.dtype:
    """Return the dtype to compute in: the checkpoint's, where float32 is not the faster one.

    Raises:
        ModelError: the model is not there, or its config names no dtype.
    """
    stored = _stored_dtype(read_config(locate_model(model)))
    return stored if runtime.speeds()[0].dtype != torch.float32 else torch.float32


def _stored_dtype(config: Mapping[str, Any]) -> torch.dtype:
    name = str(config.get("dtype") or config.get("torch_dtype") or "bfloat16")
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise ModelError(f"config.json: dtype is {name!r}; legal: float16, bfloat16, float32")
    return dtype


class Place(NamedTuple):
    """Where packed layers are to run, and by which kernel."""

    device: torch.device
    backend: str


def _fill(model: nn.Module, folder: Path, dtype: torch.dtype, *, place: Place | None) -> None:
    """Read every tensor of the model from the checkpoint, one layer's at a time.

    place: packed layers are laid out for their kernel there as they come; None not to.
    """
    source = CheckpointSource(folder)
    headers = source.headers()
    tied = tied_names(model)
    for path, module in model.named_modules():
        names = [n for n, _ in module.named_parameters(recurse=False)]
        names += [
            n
            for n, _ in module.named_buffers(recurse=False)
            if n not in module._non_persistent_buffers_set
        ]
        wanted = {n: f"{path}.{n}" if path else n for n in names}
        wanted = {n: full for n, full in wanted.items() if full not in tied}
        for name, full in wanted.items():
            _check_header(headers.get(full), getattr(module, name), f"{folder}: tensor {full}")
        for name, tensor in source.read(wanted.values()).items():
            if tensor.is_floating_point() and bool(tensor.isnan().any()):
                raise FormatError(f"{folder}: tensor {name} holds NaN")
            if isinstance(module, QuantLinear) and not _finite(tensor):
                raise FormatError(f"{folder}: tensor {name} holds infinity")
            own = name.rpartition(".")[2]
            _assign(module, own, tensor, dtype)
        if isinstance(module, QuantLinear):
            module.note_order(path)
            if place is not None:
                module.to(place.device).prepare(dtype, backend=place.backend)
    model.tie_weights()  # type: ignore[operator]


def _finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())


def _check_header(
    header: tuple[tuple[int, ...], torch.dtype] | None, held: Tensor, what: str
) -> None:
    """Check a stored tensor against what the model has in its place."""
    shape = tuple(held.shape)
    if header is None or header[0] != shape:
        got = "nothing" if header is None else header[0]
        raise FormatError(f"{what} should have shape {shape}; the files have {got}")
    # Floating-point tensors are converted, integers must be of the very kind.
    if header[1] != held.dtype and not (header[1].is_floating_point and held.is_floating_point()):
        raise FormatError(f"{what} should have dtype {held.dtype}; the files have {header[1]}")


def _assign(module: nn.Module, name: str, tensor: Tensor, dtype: torch.dtype) -> None:
    packed = isinstance(module, QuantLinear) and name != "bias"
    if tensor.is_floating_point() and not packed:
        tensor = tensor.to(dtype)
    if name in module._parameters:
        module._parameters[name] = nn.Parameter(tensor, requires_grad=False)
    else:
        module._buffers[name] = tensor


def densify(model: nn.Module, dtype: torch.dtype) -> None:
    """Replace quantized layers by plain ones that hold the same weights, unpacked."""
    for path, module in list(model.named_modules()):
        if not isinstance(module, QuantLinear):
            continue
        linear = nn.Linear(
            module.in_features, module.out_features, bias=module.bias is not None, device="meta"
        )
        weight = module.dense().to(dtype)
        linear.weight = nn.Parameter(weight, requires_grad=False)
        if module.bias is not None:
            linear.bias = nn.Parameter(module.bias.to(dtype), requires_grad=False)
        parent, _, own = path.rpartition(".")
        setattr(model.get_submodule(parent), own, linear)
