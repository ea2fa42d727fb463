"""The tensors of compressed-tensors' ``pack-quantized`` layers: 2 to 8 bits.

Per layer: ``weight_packed`` int32 [out, in*bits/32], codes along the inputs as one little-endian
bit stream a row; ``weight_scale`` [out, groups]; ``weight_shape`` int64 [2]; and for asymmetric
layers ``weight_zero_point`` int32 [out*bits/32, groups], packed along the outputs. Streams fill
up their last word with zeros. The library counts values and zero points from the middle level and
packs them plus 2**(bits-1), which is how they are counted here.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from autoround.core.packing import (
    pack_ragged_rows_unchecked,
    packed_length,
    unpack_ragged_rows,
)
from autoround.errors import FormatError
from autoround.formats.parts import assemble, matrix_part, uneven_groups
from autoround.formats.stacked import Fault, StackedLayout, expand_shared
from autoround.types import LEGAL_BITS, QuantizedTensor, Scheme

#: Widths that are read and written; the library has 1 bit as well, which no grid here has.
BITS = LEGAL_BITS


class PackQuantizedLayout(StackedLayout):
    """The tensors of ``pack-quantized`` layers."""

    name = "pack-quantized"
    parts: tuple[str, ...] = (
        *("weight_packed", "weight_scale", "weight_zero_point"),
        *("weight_shape", "weight_g_idx"),
    )

    def illegal(self, scheme: Scheme) -> str:
        """Return why no weight with a scheme can be held, or an empty text."""
        return "" if scheme.bits in BITS else f"it holds 2 to 8 bits, not {scheme.bits}"

    def why_not(self, shape: tuple[int, int], scheme: Scheme) -> str:
        """Return why a weight of shape (out, in) cannot be held, or an empty text."""
        # Groups tell how long a row is. Without them the words must: headers have no other number.
        if scheme.group_size <= 0 and shape[1] * scheme.bits % 32:
            return (
                f"its rows of {shape[1]} values of {scheme.bits} bits end inside a word, which "
                "compressed-tensors needs groups for"
            )
        return uneven_groups(shape[1], scheme, reader="compressed-tensors")

    def faults(self, layer: QuantizedTensor) -> list[Fault]:
        """Return what would keep the layout from holding a weight: zeros off the middle level."""
        if not layer.scheme.sym:
            return []
        error = FormatError("a symmetric layer has a zero point off the middle level")
        return [Fault((layer.zero != 2 ** (layer.scheme.bits - 1)).any(), error)]

    def lay_out(self, layer: QuantizedTensor) -> dict[str, Tensor]:
        """Lay weights out without a look at their values; meta tensors give shapes.

        Args:
            layer: codes [..., out, in], scale and zero [..., out, groups] or ones for the sizes
                of a per-tensor scheme.

        Returns:
            ``weight_packed`` int32 [..., out, in*bits/32], ``weight_scale`` [..., out, groups],
            ``weight_shape`` int64 [..., 2] and, if asymmetric, ``weight_zero_point`` int32
            [..., out*bits/32, groups]; numbers of words are rounded up.

        Raises:
            FormatError: it has other bits.
        """
        bits, (*lead, rows, columns) = layer.scheme.bits, layer.codes.shape
        reason = self.illegal(layer.scheme)
        if reason:
            raise FormatError(f"compressed-tensors cannot hold {layer.scheme}: {reason}")
        # Made there: the host would wait for a copy.
        sizes = [
            torch.full((1,), size, dtype=torch.int64, device=layer.codes.device)
            for size in (rows, columns)
        ]
        tensors = {
            # The axis before the last is packed: the inputs are turned there, and back.
            "weight_packed": pack_ragged_rows_unchecked(layer.codes.mT, bits).mT.contiguous(),
            "weight_scale": expand_shared(layer.scale, layer).contiguous(),
            "weight_shape": torch.cat(sizes).expand(*lead, 2).contiguous(),
        }
        if not layer.scheme.sym:
            packed = pack_ragged_rows_unchecked(expand_shared(layer.zero, layer), bits)
            tensors["weight_zero_point"] = packed.contiguous()
        return tensors

    def take_apart(
        self, tensors: Mapping[str, Tensor], scheme: Scheme, columns: int
    ) -> QuantizedTensor:
        """Undo :meth:`lay_out` without checks: for tensors that it made."""
        packed, scale = tensors["weight_packed"], tensors["weight_scale"]
        codes = unpack_ragged_rows(packed.mT, scheme.bits, columns).mT
        # Symmetric layers store no zero points: all are the middle level.
        if scheme.sym:
            middle = 2 ** (scheme.bits - 1)
            zero = torch.full(scale.shape, middle, dtype=torch.uint8, device=codes.device)
        else:
            words = tensors["weight_zero_point"]
            zero = unpack_ragged_rows(words, scheme.bits, packed.shape[-2])
        return QuantizedTensor(codes, scale, zero, scheme)

    def take_matrix_apart(
        self, tensors: Mapping[str, Tensor], scheme: Scheme, *, name: str
    ) -> QuantizedTensor:
        """Take tensors of any program apart, without a look at their values.

        Raises:
            FormatError: a tensor is missing, or has another dtype or shape than the layout.
        """
        reason = self.illegal(scheme)
        if reason:
            raise FormatError(f"layer {name}: {reason}")
        packed = matrix_part(tensors, "weight_packed", name)
        scale = matrix_part(tensors, "weight_scale", name)
        if scheme.sym and "weight_zero_point" in tensors:
            raise FormatError(
                f"layer {name}: it has zero points, and the quantization_config calls it symmetric"
            )
        columns = _columns(packed, scale, tensors.get("weight_shape"), scheme, name=name)
        parts = {"weight_packed": packed, "weight_scale": scale}
        if not scheme.sym:
            words = matrix_part(tensors, "weight_zero_point", name)
            if words.shape[0] != packed_length(packed.shape[0], scheme.bits):
                raise FormatError(
                    f"layer {name}: weight_zero_point {tuple(words.shape)} does not hold "
                    f"{packed.shape[0]} values of {scheme.bits} bits"
                )
            parts["weight_zero_point"] = words
        layer = self.take_apart(parts, scheme, columns)
        return assemble(layer.codes, scale, layer.zero, scheme, name=name)


def _columns(
    packed: Tensor, scale: Tensor, told: Tensor | None, scheme: Scheme, *, name: str
) -> int:
    """Return the input width of a layer, on which its tensors must agree.

    Args:
        packed: int32 [out, words]. scale: [out, groups]. told: ``weight_shape``, which has no
            values on meta.
        scheme: as the config says.
        name: of the layer, for messages.

    Raises:
        FormatError: they do not, or nothing tells how long rows are.
    """
    rows, words = packed.shape
    if told is not None and (told.shape != (2,) or told.is_floating_point()):
        raise FormatError(
            f"layer {name}: weight_shape is {told.dtype} {tuple(told.shape)}, expected two integers"
        )
    told_shape = None if told is None or told.device.type == "meta" else told.tolist()
    if scheme.group_size > 0:
        columns = scale.shape[1] * scheme.group_size
    elif words * 32 % scheme.bits == 0:
        columns = words * 32 // scheme.bits
    elif told_shape is None:
        raise FormatError(
            f"layer {name}: rows of {words} words of {scheme.bits}-bit values end inside a word; "
            "such rows can be read with groups only"
        )
    # One scale a row leaves a few widths open, among which the file says.
    if told_shape is not None and scheme.group_size <= 0:
        columns = int(told_shape[1])
    if packed_length(columns, scheme.bits) != words:
        raise FormatError(
            f"layer {name}: weight_packed {tuple(packed.shape)} does not hold {columns} values of "
            f"{scheme.bits} bits a row"
        )
    if told_shape is not None and told_shape != [rows, columns]:
        raise FormatError(
            f"layer {name}: weight_shape says {told_shape}, weight_packed holds {[rows, columns]}"
        )
    return columns


PACK_QUANTIZED = PackQuantizedLayout()
