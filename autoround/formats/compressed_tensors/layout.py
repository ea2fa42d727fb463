"""The tensors of compressed-tensors' ``pack-quantized`` layers: 2 to 8 bits.

Per layer: ``weight_packed`` int32 [out, in*bits/32], codes along the inputs as one little-endian
bit stream a row; ``weight_scale`` [out, groups]; ``weight_shape`` int64 [2]; and for asymmetric
layers ``weight_zero_point`` int32 [out*bits/32, groups], packed along the outputs. Streams fill
up their last word with zeros. The library counts values and zero points from the middle level and
packs them plus 2**(bits-1), which is how they are counted here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from autoround.core.word_counts import packed_length
from autoround.errors import FormatError
from autoround.formats.header_layout import HeaderLayout
from autoround.formats.parts import (
    assemble,
    check_groups,
    groups_of,
    headers_of_parts,
    matrix_shape,
    uneven_groups,
)
from autoround.storage.dtypes import StoredHeader, is_floating
from autoround.types import LEGAL_BITS, QuantizedTensor, Scheme

if TYPE_CHECKING:
    from torch import Tensor

    from autoround.formats.faults import Fault

#: Widths that are read and written; the library has 1 bit as well, which no grid here has.
BITS = LEGAL_BITS


class PackQuantizedLayout(HeaderLayout):
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
        from autoround.formats.faults import Fault

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
        from autoround.formats.compressed_tensors.tensors import lay_out

        reason = self.illegal(layer.scheme)
        if reason:
            raise FormatError(f"compressed-tensors cannot hold {layer.scheme}: {reason}")
        return lay_out(layer)

    def take_apart(
        self, tensors: Mapping[str, Tensor], scheme: Scheme, columns: int
    ) -> QuantizedTensor:
        """Undo :meth:`lay_out` without checks: for tensors that it made."""
        from autoround.formats.compressed_tensors.tensors import take_apart

        return take_apart(tensors, scheme, columns)

    def take_matrix_apart(
        self, tensors: Mapping[str, Tensor], scheme: Scheme, *, name: str
    ) -> QuantizedTensor:
        """Take tensors of any program apart, without a look at their values.

        Raises:
            FormatError: a tensor is missing, or has another dtype or shape than the layout.
        """
        told = tensors.get("weight_shape")
        sizes = None if told is None or told.device.type == "meta" else told.tolist()
        shape = self._shape(headers_of_parts(tensors), sizes, scheme, name=name)
        layer = self.take_apart(tensors, scheme, shape[1])
        return assemble(layer.codes, layer.scale, layer.zero, scheme, name=name)

    def matrix_shape(
        self, parts: Mapping[str, StoredHeader], scheme: Scheme, *, name: str
    ) -> tuple[int, int]:
        """Return (out, in) of a layer, by the headers of its tensors.

        Raises:
            FormatError: a tensor is missing, or has another dtype or shape than the layout.
        """
        return self._shape(parts, None, scheme, name=name)

    def _shape(
        self,
        parts: Mapping[str, StoredHeader],
        told: list[int] | None,
        scheme: Scheme,
        *,
        name: str,
    ) -> tuple[int, int]:
        """Return (out, in); told is what ``weight_shape`` holds, where that was read."""
        reason = self.illegal(scheme)
        if reason:
            raise FormatError(f"layer {name}: {reason}")
        packed = matrix_shape(parts, "weight_packed", name)
        scale = matrix_shape(parts, "weight_scale", name)
        if scheme.sym and "weight_zero_point" in parts:
            raise FormatError(
                f"layer {name}: it has zero points, and the quantization_config calls it symmetric"
            )
        _check_told(parts.get("weight_shape"), name=name)
        shape = packed[0], _columns(packed, scale, told, scheme, name=name)
        zero = scale
        if not scheme.sym:
            words = matrix_shape(parts, "weight_zero_point", name)
            if words[0] != packed_length(packed[0], scheme.bits):
                raise FormatError(
                    f"layer {name}: weight_zero_point {words} does not hold "
                    f"{packed[0]} values of {scheme.bits} bits"
                )
            zero = packed[0], words[1]
        check_groups(shape, scale, zero, scheme, name=name)
        return shape

    def part_headers(self, shape: tuple[int, int], scheme: Scheme) -> dict[str, StoredHeader]:
        """Return the headers of the tensors that a weight is laid out as."""
        (rows, columns), groups = shape, groups_of(shape, scheme)
        headers: dict[str, StoredHeader] = {
            "weight_packed": ((rows, packed_length(columns, scheme.bits)), "int32"),
            "weight_scale": ((rows, groups), "float16"),
            "weight_shape": ((2,), "int64"),
        }
        if not scheme.sym:
            words = packed_length(rows, scheme.bits)
            headers["weight_zero_point"] = ((words, groups), "int32")
        return headers


def _check_told(told: StoredHeader | None, *, name: str) -> None:
    """Refuse a ``weight_shape`` that is not two integers."""
    if told is not None and (told[0] != (2,) or is_floating(told[1])):
        raise FormatError(
            f"layer {name}: weight_shape is torch.{told[1]} {told[0]}, expected two integers"
        )


def _columns(
    packed: tuple[int, int],
    scale: tuple[int, int],
    told: list[int] | None,
    scheme: Scheme,
    *,
    name: str,
) -> int:
    """Return the input width of a layer, on which its tensors must agree.

    Args:
        packed: (out, words). scale: (out, groups). told: what ``weight_shape`` holds, where that
            was read.
        scheme: as the config says.
        name: of the layer, for messages.

    Raises:
        FormatError: they do not, or nothing tells how long rows are.
    """
    rows, words = packed
    if scheme.group_size > 0:
        columns = scale[1] * scheme.group_size
    elif words * 32 % scheme.bits == 0:
        columns = words * 32 // scheme.bits
    elif told is None:
        raise FormatError(
            f"layer {name}: rows of {words} words of {scheme.bits}-bit values end inside a word; "
            "such rows can be read with groups only"
        )
    # One scale a row leaves a few widths open, among which the file says.
    if told is not None and scheme.group_size <= 0:
        columns = int(told[1])
    if packed_length(columns, scheme.bits) != words:
        raise FormatError(
            f"layer {name}: weight_packed {packed} does not hold {columns} values of "
            f"{scheme.bits} bits a row"
        )
    if told is not None and told != [rows, columns]:
        raise FormatError(
            f"layer {name}: weight_shape says {told}, weight_packed holds {[rows, columns]}"
        )
    return columns


PACK_QUANTIZED = PackQuantizedLayout()
