"""Empty packed layers in place of a model's own, for a loader to fill."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from autoround.errors import FormatError
from autoround.formats.checkpoints import check_layers, packed_layers
from autoround.formats.unpacking import packed_names
from autoround.inference.linear import QuantLinear
from autoround.model.beyond import is_beyond
from autoround.model.blocks import expected


def replace_layers(
    model: nn.Module,
    quantization: Mapping[str, Any],
    headers: Mapping[str, Any],
    *,
    dtype: torch.dtype | None = None,
    tied: Mapping[str, str] | None = None,
) -> None:
    """Put empty quantized layers where the checkpoint has some.

    dtype: of biases that are not filled yet; None for that of the files.
    tied: weights that will be another one, by its name, where they are not yet.

    Raises:
        FormatError: the files do not hold what their config says, or nothing of this model.
    """
    wanted = expected(model)
    wanted.tied.update(tied or {})
    packed = packed_names(headers)
    named = packed_layers(quantization, wanted.shapes, headers)
    # A layer that a config names and the files hold as it is stays what it is.
    stored = {name: layer for name, layer in named.items() if name in packed}
    if not stored:
        raise FormatError("the quantization_config names no layer of this model")
    _refuse_unplaced(model, packed.keys() - stored.keys())
    check_layers(stored, headers, expected=wanted)
    for name, (scheme, packing) in stored.items():
        parent, _, own = name.rpartition(".")
        layer = QuantLinear(
            wanted.shapes[name],
            scheme,
            packing=packing,
            # Some programs write a bias for layers that have none in the model.
            bias=model.get_submodule(name).bias is not None or f"{name}.bias" in headers,
        )
        # Loaders convert what they read to what they find.
        for part, buffer in list(layer.named_buffers()):
            own_dtype = headers.get(f"{name}.{part}", (None, buffer.dtype))[1]
            layer._buffers[part] = buffer.to(dtype if part == "bias" and dtype else own_dtype)
        setattr(model.get_submodule(parent), own, layer)


def _refuse_unplaced(model: nn.Module, unplaced: Iterable[str]) -> None:
    """Refuse packed layers that would be left out: what stands there would be made up.

    Those that the model class leaves out on purpose are.

    Raises:
        FormatError: such as experts, which files hold one by one and the model in one tensor.
    """
    left = sorted(name for name in unplaced if not is_beyond(model, name))
    if left:
        raise FormatError(
            f"{len(left)} packed layers of the files are no layers of the model as transformers "
            f"builds it, {left[0]} for one: load it by autoround.load(FOLDER) instead, which can"
        )
