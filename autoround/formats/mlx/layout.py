"""The tensors of MLX's affine quantization, as ``mlx.core.quantize`` packs them.

Per layer: ``weight`` uint32 [out, in*bits/32], codes along the inputs as one little-endian
bit stream; ``scales`` and ``biases`` [out, groups]. A weight is ``scale * code + bias``,
so the zero point is in the bias, ``-scale * zero``: exact in float16 for symmetric grids,
whose zero point is a power of two, and rounded to float16 for others. The integer can
always be had back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from autoround.core.word_counts import BLOCK, packed_rows
from autoround.errors import FormatError
from autoround.formats.header_layout import HeaderLayout
from autoround.formats.parts import (
    check_groups,
    groups_of,
    inexact_values,
    matrix_shape,
)
from autoround.storage.dtypes import StoredHeader
from autoround.types import QuantizedTensor, Scheme

if TYPE_CHECKING:
    import torch
    from torch import Tensor

BITS = (2, 3, 4, 5, 6, 8)
GROUP_SIZES = (32, 64, 128)


class MlxLayout(HeaderLayout):
    """The tensors of MLX's affine quantization."""

    name = "mlx"
    parts: tuple[str, ...] = ("weight", "scales", "biases")

    def illegal(self, scheme: Scheme) -> str:
        """Return why no weight with this scheme can be held, or an empty text."""
        if scheme.bits not in BITS:
            return f"it holds {', '.join(map(str, BITS))} bits, not {scheme.bits}"
        if scheme.group_size not in GROUP_SIZES:
            return f"its groups are {', '.join(map(str, GROUP_SIZES))}, not {scheme.group_size}"
        return ""

    def why_not(self, shape: tuple[int, int], scheme: Scheme) -> str:
        """Return why a weight of shape (out, in) cannot be held, or an empty text."""
        if shape[1] % max(scheme.group_size, BLOCK):
            return (
                f"its input width {shape[1]} is not a multiple of the group size "
                f"{scheme.group_size}, which MLX needs"
            )
        return ""

    def lay_out(self, layer: QuantizedTensor) -> dict[str, Tensor]:
        """Lay weights out without a look at their values; meta tensors give shapes.

        Args:
            layer: codes [..., out, in], scale and zero [..., out, groups].

        Returns:
            ``weight`` uint32 [..., out, in*bits/32], ``scales`` and ``biases`` [..., out, groups].

        Raises:
            FormatError: MLX has no such bits or groups.
        """
        from autoround.formats.mlx.tensors import lay_out

        reason = self.illegal(layer.scheme)
        if reason:
            raise FormatError(f"MLX cannot hold {layer.scheme}: {reason}")
        return lay_out(layer)

    def take_apart(
        self, tensors: Mapping[str, Tensor], scheme: Scheme, columns: int
    ) -> QuantizedTensor:
        """Undo :meth:`lay_out` without checks: for tensors that it made."""
        from autoround.formats.mlx.tensors import take_apart

        return take_apart(tensors, scheme)

    def matrix_shape(
        self, parts: Mapping[str, StoredHeader], scheme: Scheme, *, name: str
    ) -> tuple[int, int]:
        """Return (out, in) of a layer, by the headers of its tensors.

        Raises:
            FormatError: a tensor is missing, or has another dtype or shape than the layout.
        """
        packed = matrix_shape(parts, "weight", name)
        scale, bias = (matrix_shape(parts, part, name) for part in ("scales", "biases"))
        if packed[1] % scheme.bits or scale != bias:
            raise FormatError(
                f"layer {name}: weight {packed}, scales {scale} and biases {bias} do not hold "
                f"{scheme.bits}-bit values"
            )
        shape = packed[0], packed[1] // scheme.bits * BLOCK
        check_groups(shape, scale, bias, scheme, name=name)
        return shape

    def part_headers(self, shape: tuple[int, int], scheme: Scheme) -> dict[str, StoredHeader]:
        """Return the headers of the tensors that a weight is laid out as."""
        (rows, columns), groups = shape, groups_of(shape, scheme)
        return {
            "weight": ((rows, packed_rows(columns, scheme.bits)), "uint32"),
            "scales": ((rows, groups), "float16"),
            "biases": ((rows, groups), "float16"),
        }

    def wrong_values(
        self, tensors: Mapping[str, Tensor], layer: QuantizedTensor
    ) -> list[tuple[Tensor, str]]:
        """Return whether biases are no multiples of the scales, as those of MLX's quantizer."""
        from autoround.formats.mlx.tensors import uneven_biases

        return uneven_biases(tensors, layer.scheme)

    def inexact(self, layer: QuantizedTensor, dtype: torch.dtype) -> str:
        """Return how many biases, scale times zero point, their own dtype does not hold."""
        exact = layer.scale.float() * layer.zero.float()
        return inexact_values(exact, layer.scale.dtype, what="biases")


MLX = MlxLayout()
