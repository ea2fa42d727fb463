"""Whether a written config makes the model that was quantized, as a loader builds it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autoround.errors import ModelError
from autoround.model.build import build_empty, build_from_values
from autoround.model.skeleton import Skeleton

#: Keys that say how weights are stored, and nothing of the modules.
_STORAGE = ("quantization_config", "quantization", "dtype", "torch_dtype")


def check_configs(configs: Iterable[dict[str, Any]], skeleton: Skeleton) -> None:
    """Refuse, before any work, what could not be loaded from the configs that will be written.

    Args:
        configs: of all outputs, as they will stand in config.json.
        skeleton: the model.

    Raises:
        ModelError: another model, or none, comes of one of them.
    """
    texts = [
        json.dumps({k: v for k, v in c.items() if k not in _STORAGE}, default=str) for c in configs
    ]
    for text in dict.fromkeys(texts):
        try:
            reason = _difference(build_from_values(json.loads(text)), skeleton.model)
        except ModelError as error:
            reason = str(error)
        if reason:
            raise ModelError(
                f"the config that would be written makes another model than this one: {reason}"
            )


def why_another_model(folder: Path, skeleton: Skeleton) -> str:
    """Build the class from a folder's config on meta, as a loader does, and compare.

    Args:
        folder: with a config.json.
        skeleton: the model that was quantized.

    Returns:
        Which tensor has another shape, or which computed buffer (rotary tables, for one) other
        values; why nothing can be built; an empty text where the models are the same.
    """
    try:
        built = build_empty(folder)
    except ModelError as error:
        return str(error)
    return _difference(built, skeleton.model)


def _difference(built: nn.Module, model: nn.Module) -> str:
    """Return how a model differs from another one of the same weights, or an empty text."""
    if type(built).__name__ != type(model).__name__:
        return f"a {type(built).__name__}, not a {type(model).__name__}"
    shapes = [{n: tuple(t.shape) for n, t in m.state_dict().items()} for m in (built, model)]
    if shapes[0] != shapes[1]:
        name = next(n for n in {**shapes[0], **shapes[1]} if shapes[0].get(n) != shapes[1].get(n))
        return f"{name} has shape {shapes[0].get(name)}, not {shapes[1].get(name)}"
    stored = model.state_dict().keys()
    buffers = dict(built.named_buffers())
    for name, buffer in model.named_buffers():
        other = buffers.get(name)
        if name in stored or "meta" in (buffer.device.type, getattr(other, "device", buffer).type):
            continue
        if other is None or not _near(other, buffer):
            return f"{name} has other values"
    return ""


def _near(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    # A model from Python may have its buffers in 16 bit, or on another device.
    return torch.allclose(one.float().cpu(), other.float().cpu(), rtol=1e-2, atol=1e-6)
