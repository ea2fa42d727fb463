"""Which kernel runs which layer of a model, and why."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from autoround.device.kernels import (
    AUTO,
    Choice,
    Demand,
    RegisteredKernel,
    Verdict,
    choose,
    faster_if_installed,
    kernels,
)
from autoround.errors import ModelError
from autoround.inference.linear import QuantLinear
from autoround.inference.opening import open_packed
from autoround.model.blocks import expected
from autoround.model.build import build_empty
from autoround.model.files.locate import find_model, read_config, read_quantization
from autoround.model.files.weights import open_weights
from autoround.types import Scheme


@dataclass(frozen=True, slots=True)
class Share:
    """Layers of one kind: scheme, kernel, and what was held against the others.

    faster: what could be installed to run them faster.
    """

    scheme: Scheme
    ordered: bool
    layers: int
    weights: int
    kernel: str
    verdicts: tuple[Verdict, ...]
    faster: tuple[str, ...]


def quant_layers(model: nn.Module) -> Iterator[tuple[str, QuantLinear]]:
    """Yield the packed layers of a model with their names."""
    for name, module in model.named_modules():
        if isinstance(module, QuantLinear):
            yield name, module


def explain(
    model: str | Path,
    *,
    device: torch.device,
    dtype: torch.dtype,
    backend: str = AUTO,
) -> tuple[Share, ...]:
    """Return what would run the layers of a quantized folder; no weight is read.

    Raises:
        ModelError, FormatError: the folder holds no packed layers.
        UsageError, DeviceError: no kernel has that name, or can run a layer.
    """
    model_files = find_model(model)
    folder = model_files.folder
    quantization = read_quantization(folder, read_config(folder))
    if quantization is None:
        raise ModelError(f"{folder} is not quantized: its config has no quantization_config")
    built = build_empty(folder)
    shapes = expected(built).shapes
    opened = open_packed(folder, built, quantization, files=open_weights(model_files))
    headers = opened.files.headers()
    counted: dict[Demand, tuple[int, int]] = {}
    for name, (file, (scheme, _)) in opened.linears.items():
        ordered = bool(quantization.get("desc_act")) and f"{file}.g_idx" in headers
        demand = Demand(shapes[name], scheme, device.type, dtype, ordered)
        layers, weights = counted.get(demand, (0, 0))
        counted[demand] = layers + 1, weights + shapes[name][0] * shapes[name][1]
    return _shares({d: (choose(d, backend), *count) for d, count in counted.items()})


def _shares(chosen: dict[Demand, tuple[Choice, int, int]]) -> tuple[Share, ...]:
    """Put layers that differ in their shape only together."""
    found: dict[tuple[Scheme, bool, str], Share] = {}
    for demand, (choice, layers, weights) in chosen.items():
        key = (demand.scheme, demand.ordered, choice.kernel.name)
        own = found.get(key)
        found[key] = Share(
            *key[:2],
            layers + (own.layers if own else 0),
            weights + (own.weights if own else 0),
            choice.kernel.name,
            own.verdicts if own else choice.verdicts,
            own.faster if own else tuple(faster_if_installed(demand, choice.kernel)),
        )
    return tuple(found.values())


def advise(model: nn.Module) -> None:
    """Warn where layers run slower than they could: by plain torch, or for want of a package."""
    slow: dict[str, int] = {}
    for _, layer in quant_layers(model):
        if layer.demand is None or layer.backend != AUTO:
            continue
        choice = choose(layer.demand, layer.backend)
        packages = faster_if_installed(layer.demand, choice.kernel)
        said = [f"pip install {' or '.join(dict.fromkeys(packages))}"] if packages else []
        if choice.kernel.rank <= 0:
            device = layer.demand.device
            said += [
                f"{found.name}: {verdict.reason}"
                for found, verdict in zip(kernels(), choice.verdicts, strict=True)
                if found.kernel and device in found.kernel.devices and found.kernel.rank > 0
            ]
        if said:
            text = f"by the kernel {choice.kernel.name!r}, and could be faster ({'; '.join(said)})"
            slow[text] = slow.get(text, 0) + 1
    for text, count in slow.items():
        warnings.warn(f"{count} layers run {text}; see 'autoround kernels'", stacklevel=3)


def installed() -> tuple[RegisteredKernel, ...]:
    """Return all registered kernels and whether they can run here."""
    return kernels()
