"""AWQ's tensors (version gemm, 4 bits): everything packed along the outputs.

Per layer: ``qweight`` int32 [in, out/8], ``qzeros`` int32 [groups, out/8], ``scales``
float16 [groups, out]. Which output of its eight each nibble of a word holds is said in
:mod:`autoround.formats.awq.tensors`; zero points are stored as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from autoround.errors import FormatError
from autoround.formats.header_layout import HeaderLayout
from autoround.formats.parts import (
    check_groups,
    groups_of,
    matrix_shape,
    uneven_groups,
)
from autoround.storage.dtypes import StoredHeader
from autoround.types import QuantizedTensor, Scheme

if TYPE_CHECKING:
    from torch import Tensor

BITS = 4
#: Outputs that share a word.
EIGHT = 8


class AwqLayout(HeaderLayout):
    """AWQ's tensors, under the name of one of the formats that use them."""

    parts: tuple[str, ...] = ("qweight", "qzeros", "scales")

    def __init__(self, name: str) -> None:
        self.name = name

    def illegal(self, scheme: Scheme) -> str:
        """Return why no weight with a scheme can be held, or an empty text."""
        return "" if scheme.bits == BITS else f"it holds {BITS} bits only, not {scheme.bits}"

    def why_not(self, shape: tuple[int, int], scheme: Scheme) -> str:
        """Return why a weight of shape (out, in) cannot be held, or an empty text."""
        if shape[0] % EIGHT:
            return f"its output width {shape[0]} is not a multiple of {EIGHT}, which AWQ needs"
        return uneven_groups(shape[1], scheme, reader="AWQ")

    def lay_out(self, layer: QuantizedTensor) -> dict[str, Tensor]:
        """Lay weights out without a look at their values; meta tensors give shapes.

        Args:
            layer: codes [..., out, in], scale and zero [..., out, groups] or ones for the sizes
                of a per-tensor scheme.

        Returns:
            ``qweight`` int32 [..., in, out/8], ``qzeros`` int32 [..., groups, out/8] and
            ``scales`` [..., groups, out].

        Raises:
            FormatError: the weight does not have 4 bits.
        """
        from autoround.formats.awq.tensors import lay_out

        if layer.scheme.bits != BITS:
            raise FormatError(f"AWQ holds {BITS} bits, not {layer.scheme.bits}")
        return lay_out(layer)

    def take_apart(
        self, tensors: Mapping[str, Tensor], scheme: Scheme, columns: int
    ) -> QuantizedTensor:
        """Undo :meth:`lay_out` without checks: for tensors that it made."""
        from autoround.formats.awq.tensors import take_apart

        return take_apart(tensors, scheme)

    def matrix_shape(
        self, parts: Mapping[str, StoredHeader], scheme: Scheme, *, name: str
    ) -> tuple[int, int]:
        """Return (out, in) of a layer, by the headers of its tensors.

        Raises:
            FormatError: a tensor is missing, or has another dtype or shape than the layout.
        """
        if scheme.bits != BITS:
            raise FormatError(f"layer {name}: AWQ holds {BITS} bits, not {scheme.bits}")
        qweight, qzeros, scales = (
            matrix_shape(parts, part, name) for part in ("qweight", "qzeros", "scales")
        )
        shape, zero = (qweight[1] * EIGHT, qweight[0]), (qzeros[1] * EIGHT, qzeros[0])
        check_groups(shape, scales[::-1], zero, scheme, name=name)
        return shape

    def part_headers(self, shape: tuple[int, int], scheme: Scheme) -> dict[str, StoredHeader]:
        """Return the headers of the tensors that a weight is laid out as."""
        (rows, columns), groups = shape, groups_of(shape, scheme)
        return {
            "qweight": ((columns, rows // EIGHT), "int32"),
            "qzeros": ((groups, rows // EIGHT), "int32"),
            "scales": ((groups, rows), "float16"),
        }


#: As AWQ's own programs write them, and as AutoRound does.
AWQ = AwqLayout("awq")
AUTO_ROUND_AWQ = AwqLayout("auto_round:auto_awq")
