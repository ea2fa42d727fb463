"""The tensors of compressed-tensors' ``pack-quantized`` layers: 4 or 8 bits.

Per layer: ``weight_packed`` int32 [out, in*bits/32], codes along the inputs, low bits
first; ``weight_scale`` [out, groups]; ``weight_shape`` int64 [2]; and for asymmetric
layers ``weight_zero_point`` int32 [out*bits/32, groups], packed along the outputs. The
library counts values and zero points from the middle level and packs them plus
2**(bits-1), which is how they are counted here.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from autoround.core.packing import BLOCK, pack_rows, unpack_rows
from autoround.errors import FormatError
from autoround.formats.format import BaseLayout
from autoround.formats.parts import assemble, matrix_part, uneven_groups
from autoround.types import QuantizedTensor, Scheme

BITS = (4, 8)


class PackQuantizedLayout(BaseLayout):
    """The tensors of ``pack-quantized`` layers."""

    name = "pack-quantized"
    parts: tuple[str, ...] = (
        *("weight_packed", "weight_scale", "weight_zero_point"),
        *("weight_shape", "weight_g_idx"),
    )

    def illegal(self, scheme: Scheme) -> str:
        """Return why no weight with a scheme can be held, or an empty text."""
        return "" if scheme.bits in BITS else f"it holds 4 or 8 bits, not {scheme.bits}"

    def why_not(self, shape: tuple[int, int], scheme: Scheme) -> str:
        """Return why a weight of shape (out, in) cannot be held, or an empty text."""
        if shape[1] % BLOCK:
            return f"its input width {shape[1]} is not a multiple of {BLOCK}, which packing needs"
        if not scheme.sym and shape[0] % BLOCK:
            return f"its output width {shape[0]} is not a multiple of {BLOCK}, which packing needs"
        return uneven_groups(shape[1], scheme, reader="compressed-tensors")

    def to_tensors(self, layer: QuantizedTensor) -> dict[str, Tensor]:
        """Lay a quantized weight out; meta tensors give shapes.

        Args:
            layer: codes [out, in], scale and zero [out, groups] or [1, 1] for a per-tensor scheme.

        Returns:
            ``weight_packed`` int32 [out, in*bits/32], ``weight_scale`` [out, groups],
            ``weight_shape`` int64 [2] and, if asymmetric, ``weight_zero_point`` int32
            [out*bits/32, groups].

        Raises:
            FormatError: it does not have 4 or 8 bits, or is called symmetric and is not.
        """
        bits, (rows, columns) = layer.scheme.bits, layer.codes.shape
        if bits not in BITS:
            raise FormatError(f"compressed-tensors holds 4 or 8 bits, not {bits}")
        tensors = {
            # pack_rows packs its first axis: the inputs are turned there, and back.
            "weight_packed": pack_rows(layer.codes.t(), bits).t().contiguous(),
            "weight_scale": layer.scale.expand(rows, -1).contiguous(),
            "weight_shape": torch.tensor(
                [rows, columns], dtype=torch.int64, device=layer.codes.device
            ),
        }
        if not layer.scheme.sym:
            tensors["weight_zero_point"] = pack_rows(layer.zero.expand(rows, -1), bits).contiguous()
        elif layer.zero.device.type != "meta" and not bool((layer.zero == 2 ** (bits - 1)).all()):
            raise FormatError("a symmetric layer has a zero point off the middle level")
        return tensors

    def from_tensors(
        self, tensors: Mapping[str, Tensor], scheme: Scheme, *, name: str
    ) -> QuantizedTensor:
        """Read a quantized weight back.

        Raises:
            FormatError: a tensor is missing, or has another dtype or shape than the layout.
        """
        packed = matrix_part(tensors, "weight_packed", name)
        scale = matrix_part(tensors, "weight_scale", name)
        if packed.shape[1] % scheme.bits or scheme.bits not in BITS:
            raise FormatError(
                f"layer {name}: weight_packed {tuple(packed.shape)} does not hold "
                f"{scheme.bits}-bit values"
            )
        if scheme.sym and "weight_zero_point" in tensors:
            raise FormatError(
                f"layer {name}: it has zero points, and the quantization_config calls it symmetric"
            )
        codes = unpack_rows(packed.t(), scheme.bits).t()
        held = tensors.get("weight_shape")
        # Headers alone cannot be held against it: on meta it has no values.
        if held is not None and held.device.type != "meta" and held.tolist() != list(codes.shape):
            raise FormatError(
                f"layer {name}: weight_shape says {held.tolist()}, weight_packed holds "
                f"{list(codes.shape)}"
            )
        # Symmetric layers store no zero points: all are the middle level.
        if scheme.sym:
            zero = torch.full(
                scale.shape, 2 ** (scheme.bits - 1), dtype=torch.uint8, device=codes.device
            )
        else:
            words = matrix_part(tensors, "weight_zero_point", name)
            if words.shape[0] % scheme.bits:
                raise FormatError(
                    f"layer {name}: weight_zero_point {tuple(words.shape)} does not hold "
                    f"{scheme.bits}-bit values"
                )
            zero = unpack_rows(words, scheme.bits)
        return assemble(codes, scale, zero, scheme, name=name)


PACK_QUANTIZED = PackQuantizedLayout()
