"""The tensors of MLX's affine quantization, as ``mlx.core.quantize`` packs them.

Per layer: ``weight`` uint32 [out, in*bits/32], codes along the inputs as one little-endian
bit stream; ``scales`` and ``biases`` [out, groups]. A weight is ``scale * code + bias``,
so the zero point is in the bias, ``-scale * zero``: exact in float16 for symmetric grids,
whose zero point is a power of two, and rounded to float16 for others. The integer can
always be had back.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from autoround.core.packing import BLOCK, pack_rows_unchecked, unpack_rows
from autoround.errors import FormatError
from autoround.formats.parts import assemble, inexact_values, matrix_part
from autoround.formats.stacked import StackedLayout
from autoround.types import QuantizedTensor, Scheme

BITS = (2, 3, 4, 5, 6, 8)
GROUP_SIZES = (32, 64, 128)


def _zero_positions(tensors: Mapping[str, Tensor]) -> Tensor:
    """Return the zero points but for the rounding of the biases: bias = -scale * zero."""
    return -tensors["biases"].float() / tensors["scales"].float()


class MlxLayout(StackedLayout):
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
        reason = self.illegal(layer.scheme)
        if reason:
            raise FormatError(f"MLX cannot hold {layer.scheme}: {reason}")
        packed = pack_rows_unchecked(layer.codes.mT, layer.scheme.bits).mT.contiguous()
        # In float32: the product is rounded once, when it is stored.
        bias = -(layer.scale.float() * layer.zero.float())
        return {
            "weight": packed.view(torch.uint32),
            "scales": layer.scale.contiguous(),
            "biases": bias.to(layer.scale.dtype).contiguous(),
        }

    def take_apart(
        self, tensors: Mapping[str, Tensor], scheme: Scheme, columns: int
    ) -> QuantizedTensor:
        """Undo :meth:`lay_out` without checks: for tensors that it made."""
        codes = unpack_rows(tensors["weight"].view(torch.int32).mT, scheme.bits).mT
        zero = _zero_positions(tensors).round().to(torch.uint8)
        return QuantizedTensor(codes, tensors["scales"], zero, scheme)

    def take_matrix_apart(
        self, tensors: Mapping[str, Tensor], scheme: Scheme, *, name: str
    ) -> QuantizedTensor:
        """Take tensors of any program apart, without a look at their values.

        Raises:
            FormatError: a tensor is missing, or has another dtype or shape than the layout.
        """
        packed = matrix_part(tensors, "weight", name)
        scale, bias = (matrix_part(tensors, part, name) for part in ("scales", "biases"))
        if packed.shape[1] % scheme.bits or scale.shape != bias.shape:
            raise FormatError(
                f"layer {name}: weight {tuple(packed.shape)}, scales {tuple(scale.shape)} and "
                f"biases {tuple(bias.shape)} do not hold {scheme.bits}-bit values"
            )
        parts = {"weight": packed, "scales": scale, "biases": bias}
        layer = self.take_apart(parts, scheme, packed.shape[1] // scheme.bits * BLOCK)
        return assemble(layer.codes, scale, layer.zero, scheme, name=name)

    def wrong_values(
        self, tensors: Mapping[str, Tensor], layer: QuantizedTensor
    ) -> list[tuple[Tensor, str]]:
        """Return whether biases are no multiples of the scales, as those of MLX's quantizer."""
        position = _zero_positions(tensors)
        zero = position.round()
        # Rounding a bias to float16 moves it by less than its size over 2048.
        off = (position - zero).abs() > position.abs() / 1024 + 1e-3
        off = off | (zero < 0) | (zero > 2**layer.scheme.bits - 1) | ~position.isfinite()
        return [
            (
                off.flatten(-2).any(-1),
                "its biases are no whole multiples of its scales; files of MLX's own quantizer "
                "have no integer zero points and cannot be read",
            )
        ]

    def inexact(self, layer: QuantizedTensor, dtype: torch.dtype) -> str:
        """Return how many biases, scale times zero point, their own dtype does not hold."""
        exact = layer.scale.float() * layer.zero.float()
        return inexact_values(exact, layer.scale.dtype, what="biases")


MLX = MlxLayout()
