"""Load models to score or run: quantized folders and unquantized ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from autoround.device.kernels import AUTO, check_backend
from autoround.device.registry import open_device
from autoround.errors import ModelError, one_line
from autoround.formats.registry import is_readable
from autoround.gguf.header_check import check_header
from autoround.inference.load import load
from autoround.inference.load_gguf import load_gguf
from autoround.model.blocks import tied_names
from autoround.model.files.locate import (
    foreign_gguf,
    gguf_file,
    locate_model,
    read_config,
    read_quantization,
)
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

    Quantized formats that this package reads are dequantized; a GGUF file without a config goes
    to transformers. All else is opened with the checks that quantizing makes: every parameter of
    the class comes from the files.

    Args:
        model: Folder or hub id.
        device: Name of a device, or ``auto``.
        dtype: Of weights and activations; float32 compares models without rounding of its own.

    Returns:
        A causal language model of transformers, in evaluation mode.

    Raises:
        ModelError: The model cannot be loaded.
    """
    folder = locate_model(model)
    if gguf_file(folder) is not None and (folder / "config.json").is_file():
        return load_gguf(folder, device=device)
    file = foreign_gguf(folder)
    if file:
        return _load_foreign_gguf(folder, file, dtype).to(open_device(device).device)
    quantization = read_quantization(folder, read_config(folder))
    if quantization is not None and is_readable(quantization):
        return load(folder, device=device, dtype=dtype, dense=True)
    runtime = open_device(device)
    # Opened as for quantizing: a tensor that the files lack is an error, and not made up.
    return fill_weights(open_model(folder), dtype).to(runtime.device)


def _load_foreign_gguf(folder: Path, file: str, dtype: torch.dtype) -> Any:
    """Let transformers read a GGUF file that has no config beside it."""
    import transformers

    check_header(folder / file)
    options: dict[str, Any] = {}
    if hasattr(transformers, "GgufConfig"):  # newer releases keep the blocks packed
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    try:
        kind: Any = transformers.AutoModelForCausalLM
        loaded, report = kind.from_pretrained(
            folder,
            dtype=dtype,
            trust_remote_code=False,
            gguf_file=file,
            output_loading_info=True,
            **options,
        )
    except Exception as error:  # a damaged folder fails in many unrelated ways
        reason = one_line(error, 300)
        raise ModelError(f"{folder} cannot be loaded: {reason}") from error
    # transformers makes up what a file lacks.
    lacking = sorted(set(report["missing_keys"]) - tied_names(loaded).keys())
    if lacking:
        raise ModelError(
            f"{folder / file} lacks {len(lacking)} tensors of its model class, such as {lacking[0]}"
        )
    model: Any = loaded.eval()
    return model
