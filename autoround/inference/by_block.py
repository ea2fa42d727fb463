"""A quantized checkpoint run with no more of it in memory than one block."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autoround.device.registry import open_device
from autoround.inference.fill import Filler
from autoround.inference.load import load, open_empty
from autoround.model.blocks import head_path

#: Times the bytes of the files that a model loaded whole takes in float32, with what runs it.
WHOLE = 3

#: A module, its parameters and its buffers.
_Before = tuple[nn.Module, dict[str, Any], dict[str, Any]]


def load_to_check(folder: Path, blocks: Sequence[str], *, free: int | None = None) -> nn.Module:
    """Load a quantized checkpoint on the CPU in float32: whole where the memory has room for it.

    Args:
        folder: of the checkpoint, complete.
        blocks: paths of the decoder blocks, which are read when they run where it has not.
        free: bytes of memory that it may take; None for all that is free now.

    Raises:
        AutoRoundError: as for :func:`autoround.inference.load.load`.
    """
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    if WHOLE * size <= (open_device("cpu").memory().free if free is None else free):
        whole: nn.Module = load(folder, device="cpu", backend="torch", dtype=torch.float32)
        return whole
    return load_by_block(folder, blocks)


def load_by_block(folder: Path, blocks: Sequence[str]) -> nn.Module:
    """Load a quantized checkpoint on the CPU in float32, each block's weights as it runs.

    What lies outside the blocks is read at once, but for a head with weights of its own; a block's
    tensors are let go of when it has run. Everything else is as in a model that is loaded whole:
    the class that the config makes, packed layers, names of tensors.

    Args:
        folder: of the checkpoint.
        blocks: paths of the modules to read when they run.

    Raises:
        AutoRoundError: as for :func:`autoround.inference.load.load`; errors of a block's tensors
            are raised when it runs.
    """
    model, opened, packed = open_empty(folder)
    # Not laid out for a kernel: unpacked as they run, which takes no memory of its own.
    filler = Filler.of(model, opened, packed, dtype=torch.float32, place=None)
    units = [*blocks, *_head(model, filler)]
    inside = tuple(f"{path}." for path in units)
    for path, module in model.named_modules():
        if path not in units and not path.startswith(inside):
            filler.fill(path, module)
    model.tie_weights()
    for path in units:
        block = model.get_submodule(path)
        before: list[_Before] = []
        block.register_forward_pre_hook(partial(_read, filler, path, before))
        block.register_forward_hook(partial(_drop, before))
    empty: nn.Module = model.eval()
    return empty


def _head(model: nn.Module, filler: Filler) -> list[str]:
    """Return the path of a head that holds weights of its own, if there is one."""
    path = head_path(model)
    return [path] if path and f"{path}.weight" not in filler.tied else []


def _read(filler: Filler, path: str, before: list[_Before], block: nn.Module, args: Any) -> None:
    """Fill a block, and note what it was before."""
    for inner, module in block.named_modules():
        before.append((module, dict(module._parameters), dict(module._buffers)))
        filler.fill(f"{path}.{inner}" if inner else path, module, tied=True)


def _drop(before: list[_Before], block: nn.Module, args: Any, output: Tensor) -> None:
    """Make a block what it was before it was filled."""
    for module, parameters, buffers in before:
        module._parameters.clear()
        module._parameters.update(parameters)
        module._buffers.clear()
        module._buffers.update(buffers)
    before.clear()
