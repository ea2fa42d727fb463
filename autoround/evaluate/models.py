"""Load models to score or run: quantized folders and unquantized ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from autoround.device.kernels import AUTO, check_backend
from autoround.device.registry import open_device
from autoround.errors import ModelError
from autoround.formats.registry import is_readable, method_of
from autoround.inference.load import load
from autoround.inference.load_gguf import load_gguf
from autoround.model.build import class_of
from autoround.model.files.locate import (
    UNPACKED,
    foreign_gguf,
    gguf_file,
    locate_model,
    read_config,
    read_quantization,
)
from autoround.model.files.source import tensor_files
from autoround.model.skeleton import fill_weights, open_model


def load_runnable(model: str | Path, *, device: str = "auto", backend: str = AUTO) -> Any:
    """Load a model to generate with; packed layers stay packed and run by a kernel.

    Args:
        model: Folder or hub id.
        device: Name of a device, or ``auto``.
        backend: Name of the kernel for packed layers, or ``auto``.

    Returns:
        A causal language model of transformers, in evaluation mode.

    Raises:
        ModelError: The model cannot be loaded.
    """
    check_backend(backend)
    folder = locate_model(model)
    if gguf_file(folder) is None:
        quantization = read_quantization(folder, read_config(folder))
        if quantization is not None and is_readable(quantization):
            return load(folder, device=device, backend=backend)
    return load_any(folder, device=device)


def load_any(model: str | Path, *, device: str = "auto", dtype: torch.dtype = torch.float32) -> Any:
    """Load a model with dequantized weights, to score it.

    Quantized formats that this package reads are dequantized; others, and a GGUF file without a
    config, go to transformers.

    Args:
        model: Folder or hub id.
        device: Name of a device, or ``auto``.
        dtype: Of weights and activations; float32 compares models without rounding of its own.

    Returns:
        A causal language model of transformers, in evaluation mode.

    Raises:
        ModelError: The model cannot be loaded.
    """
    import transformers

    folder = locate_model(model)
    if gguf_file(folder) is not None and (folder / "config.json").is_file():
        return load_gguf(folder, device=device)
    file = foreign_gguf(folder)
    quantization = None if file else read_quantization(folder, read_config(folder))
    if quantization is not None and is_readable(quantization):
        return load(folder, device=device, dtype=dtype, dense=True)
    runtime = open_device(device)
    if quantization is not None and method_of(quantization) in UNPACKED:
        return fill_weights(open_model(folder)).to(runtime.device)
    if not file:
        tensor_files(folder)  # refuses pickled weights, which transformers would open
    options: dict[str, Any] = {"gguf_file": file} if file else {}
    if file and hasattr(transformers, "GgufConfig"):  # newer releases keep the blocks packed
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    try:
        kind = transformers.AutoModelForCausalLM if file else class_of(folder)
        loaded: Any = kind.from_pretrained(
            folder,
            dtype=dtype,
            trust_remote_code=False,
            use_safetensors=None if file else True,
            **options,
        )
    except Exception as error:  # a damaged folder fails in many unrelated ways
        reason = " ".join(str(error).split())[:300] or repr(error)
        raise ModelError(f"{folder} cannot be loaded: {reason}") from error
    return loaded.to(runtime.device).eval()
