"""What several layouts need: checks of a layer and of its tensors, and putting them together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from autoround.core.grids.widths import group_count
from autoround.errors import FormatError
from autoround.storage.dtypes import StoredHeader
from autoround.types import PER_CHANNEL, QuantizedTensor, Scheme

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def headers_of_parts(tensors: Mapping[str, Tensor]) -> dict[str, StoredHeader]:
    """Return shape and name of the dtype of a layer's tensors.

    Args:
        tensors: by part.
    """
    return {
        part: (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        for part, tensor in tensors.items()
    }


def matrix_shape(parts: Mapping[str, StoredHeader], part: str, name: str) -> tuple[int, int]:
    """Return the shape of one matrix of a layer.

    Args:
        parts: headers of the layer's tensors.
        part: which one; ``scales``, ``biases`` and ``weight_scale`` are float16 or bfloat16,
            ``weight`` (MLX's) is uint32, all else int32.
        name: of the layer, for messages.

    Raises:
        FormatError: it is missing, is no matrix, is empty, or has another dtype.
    """
    header = parts.get(part)
    if header is None:
        raise FormatError(f"layer {name}: tensor {name}.{part} is missing")
    wanted: tuple[str, ...] = ("int32",)
    if part in ("scales", "biases", "weight_scale"):
        wanted = ("float16", "bfloat16")
    elif part == "weight":
        wanted = ("uint32",)
    shape, dtype = header
    if dtype not in wanted or len(shape) != 2 or 0 in shape:
        raise FormatError(
            f"layer {name}: {part} is torch.{dtype} {shape}, expected a matrix of {_either(wanted)}"
        )
    return shape[0], shape[1]


def _either(dtypes: Iterable[str]) -> str:
    return " or ".join(f"torch.{dtype}" for dtype in dtypes)


def groups_of(shape: tuple[int, int], scheme: Scheme) -> int:
    """Return how many scales a row has in files, which write one for a tensor once a channel.

    Args:
        shape: (out, in).
        scheme: of the weight.
    """
    return group_count(shape, _once_a_channel(scheme)) // shape[0]


def check_groups(
    shape: tuple[int, int],
    scale: tuple[int, ...],
    zero: tuple[int, ...],
    scheme: Scheme,
    *,
    name: str,
) -> None:
    """Check that scales and zero points fit a weight.

    Args:
        shape: (out, in).
        scale: shape of the scales, (out, groups).
        zero: that of the zero points.
        scheme: as the config says.
        name: of the layer, for messages.

    Raises:
        FormatError: they do not.
    """
    wanted = (shape[0], groups_of(shape, scheme))
    if zero != wanted or scale != wanted:
        raise FormatError(
            f"layer {name}: scales {scale} and zero points {zero} do not fit a weight of "
            f"{shape[0]} x {shape[1]} with {scheme}"
        )


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
    check_groups((rows, columns), tuple(scale.shape), tuple(zero.shape), scheme, name=name)
    effective = _once_a_channel(scheme)
    return QuantizedTensor(codes.contiguous(), scale.contiguous(), zero.contiguous(), effective)


def _once_a_channel(scheme: Scheme) -> Scheme:
    """Return the scheme of a weight whose per-tensor scale is written once an output channel."""
    return Scheme(scheme.bits, scheme.group_size or PER_CHANNEL, scheme.sym)


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
