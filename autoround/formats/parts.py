"""Reading the tensors of a layer with the checks that every layout needs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from autoround.errors import FormatError


def matrix_part(tensors: Mapping[str, Tensor], part: str, name: str) -> Tensor:
    """Return one matrix of a layer: scales in 16-bit floats, all else in 32-bit words.

    Raises:
        FormatError: it is missing, or is something else.
    """
    tensor = tensors.get(part)
    if tensor is None:
        raise FormatError(f"layer {name}: tensor {name}.{part} is missing")
    wanted: tuple[torch.dtype, ...] = (torch.int32,)
    if part in ("scales", "biases", "weight_scale"):
        wanted = (torch.float16, torch.bfloat16)
    elif part == "weight":
        wanted = (torch.uint32,)
    if tensor.dtype not in wanted or tensor.dim() != 2 or not tensor.numel():
        raise FormatError(
            f"layer {name}: {part} is {tensor.dtype} {tuple(tensor.shape)}, expected a matrix "
            f"of {' or '.join(map(str, wanted))}"
        )
    return tensor
