"""What several layouts need: checks of a layer and of its tensors, and putting them together."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from autoround.core.metrics import group_count
from autoround.errors import FormatError
from autoround.types import PER_CHANNEL, QuantizedTensor, Scheme


def matrix_part(tensors: Mapping[str, Tensor], part: str, name: str) -> Tensor:
    """Return one matrix of a layer.

    Args:
        tensors: of the layer, by part.
        part: which one; ``scales``, ``biases`` and ``weight_scale`` are float16 or bfloat16,
            ``weight`` (MLX's) is uint32, all else int32.
        name: of the layer, for messages.

    Raises:
        FormatError: it is missing, is no matrix, is empty, or has another dtype.
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


def assemble(
    codes: Tensor, scale: Tensor, zero: Tensor, scheme: Scheme, *, name: str
) -> QuantizedTensor:
    """Put read parts together after checking that they fit each other.

    Args:
        codes: uint8 [out, in].
        scale: float16 or bfloat16 [out, groups].
        zero: uint8 [out, groups].
        scheme: as the config says.
        name: of the layer, for messages.

    Returns:
        The weight; one scale a tensor, which files hold once a channel, is one a channel.

    Raises:
        FormatError: scales or zero points do not fit the weight.
    """
    rows, columns = codes.shape
    # A per-tensor scale is written once per output channel.
    effective = Scheme(scheme.bits, scheme.group_size or PER_CHANNEL, scheme.sym)
    groups = group_count((rows, columns), effective) // rows
    if zero.shape != (rows, groups) or scale.shape != (rows, groups):
        raise FormatError(
            f"layer {name}: scales {tuple(scale.shape)} and zero points {tuple(zero.shape)} do "
            f"not fit a weight of {rows} x {columns} with {scheme}"
        )
    return QuantizedTensor(codes.contiguous(), scale.contiguous(), zero.contiguous(), effective)


def uneven_groups(columns: int, scheme: Scheme, *, reader: str) -> str:
    """Return why groups that do not divide a row cannot be held, or an empty text.

    Args:
        columns: input width of the weight.
        scheme: its group size.
        reader: the program that needs them to.
    """
    if scheme.group_size <= 0 or columns % scheme.group_size == 0:
        return ""
    return (
        f"its input width {columns} is not a multiple of the group size {scheme.group_size}, "
        f"which {reader} needs"
    )


def inexact_values(exact: Tensor, dtype: torch.dtype, *, what: str) -> str:
    """Return how many values a dtype does not hold, or an empty text.

    Args:
        exact: float32, any shape.
        dtype: that they are written in.
        what: they are, in the plural.
    """
    # Back in float32, because both sides must have one dtype to be compared.
    off = int((exact.to(dtype).float() != exact).sum())
    return f"{off} {what} are not exact in {str(dtype).removeprefix('torch.')}" if off else ""
