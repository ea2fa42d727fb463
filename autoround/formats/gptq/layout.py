"""GPTQ's tensors: codes packed along the inputs, zero points along the outputs.

Per layer: ``qweight`` int32 [in/32*bits, out], ``qzeros`` int32 [groups, out/32*bits],
``scales`` float16 [groups, out], and where asked ``g_idx`` int32 [in], the group of each
input. Version 1 stores ``zero - 1``, to which readers add 1; version 2 the zero itself.
Files with a zero point of 0 in version 1 exist, and are read; none is written.
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
    matrix_shape,
)
from autoround.storage.dtypes import StoredHeader
from autoround.types import QuantizedTensor, Scheme

if TYPE_CHECKING:
    from torch import Tensor

    from autoround.formats.faults import Fault


class GptqLayout(HeaderLayout):
    """GPTQ's tensors in one of their versions.

    Args:
        name: of the layout.
        version: 1 where zero points are stored minus one, 2 where they are stored as they are.
        g_idx: whether the group of each input is written.
        bits: widths that its clients read; None for all.
    """

    parts: tuple[str, ...] = ("qweight", "qzeros", "scales", "g_idx")

    def __init__(
        self, name: str, *, version: int, g_idx: bool, bits: tuple[int, ...] | None = None
    ) -> None:
        self.name, self.version, self.ordered, self._bits = name, version, g_idx, bits
        # Readers of version 1 add one: a stored field cannot say -1.
        self.lowest_zero = 1 if version == 1 else 0

    def illegal(self, scheme: Scheme) -> str:
        """Return why no weight with a scheme can be held, or an empty text."""
        if self._bits is None or scheme.bits in self._bits:
            return ""
        *most, last = self._bits
        return f"it holds {', '.join(map(str, most))} or {last} bits, not {scheme.bits}"

    def why_not(self, shape: tuple[int, int], scheme: Scheme) -> str:
        """Return why a weight of shape (out, in) cannot be held, or an empty text."""
        for size, what in ((shape[0], "output"), (shape[1], "input")):
            if size % BLOCK:
                return f"its {what} width {size} is not a multiple of {BLOCK}, which packing needs"
        return ""

    def faults(self, layer: QuantizedTensor) -> list[Fault]:
        """Return what would keep the layout from holding a weight: version 1, and a zero of 0."""
        if self.version != 1:
            return []
        from autoround.formats.faults import Fault

        # Readers that take zero points modulo 2**bits have it back, others do not.
        error = FormatError("GPTQ version 1 cannot hold a zero point of 0")
        return [Fault((layer.zero == 0).any(), error)]

    def lay_out(self, layer: QuantizedTensor) -> dict[str, Tensor]:
        """Lay weights out without a look at their values; meta tensors give shapes.

        Args:
            layer: codes [..., out, in], scale and zero [..., out, groups] or ones for the sizes
                of a per-tensor scheme.

        Returns:
            ``qweight`` int32 [..., in/32*bits, out], ``qzeros`` int32 [..., groups, out/32*bits],
            ``scales`` [..., groups, out] and, where it is written, ``g_idx`` int32 [..., in].
        """
        from autoround.formats.gptq.tensors import lay_out

        return lay_out(layer, self.version, g_idx=self.ordered)

    def take_apart(
        self, tensors: Mapping[str, Tensor], scheme: Scheme, columns: int
    ) -> QuantizedTensor:
        """Undo :meth:`lay_out` without checks: for tensors that it made."""
        from autoround.formats.gptq.tensors import take_apart

        return take_apart(tensors, scheme, self.version)

    def matrix_shape(
        self, parts: Mapping[str, StoredHeader], scheme: Scheme, *, name: str
    ) -> tuple[int, int]:
        """Return (out, in) of a layer, by the headers of its tensors; ``g_idx`` is not looked at.

        Raises:
            FormatError: a tensor is missing, or has another dtype or shape than the layout.
        """
        qweight, qzeros, scales = (
            matrix_shape(parts, part, name) for part in ("qweight", "qzeros", "scales")
        )
        if qweight[0] % scheme.bits or qzeros[1] % scheme.bits:
            raise FormatError(
                f"layer {name}: qweight {qweight} does not hold {scheme.bits}-bit values"
            )
        shape = qweight[1], qweight[0] // scheme.bits * BLOCK
        zero = qzeros[1] // scheme.bits * BLOCK, qzeros[0]
        check_groups(shape, scales[::-1], zero, scheme, name=name)
        return shape

    def part_headers(self, shape: tuple[int, int], scheme: Scheme) -> dict[str, StoredHeader]:
        """Return the headers of the tensors that a weight is laid out as."""
        (rows, columns), groups = shape, groups_of(shape, scheme)
        headers: dict[str, StoredHeader] = {
            "qweight": ((packed_rows(columns, scheme.bits), rows), "int32"),
            "qzeros": ((groups, packed_rows(rows, scheme.bits)), "int32"),
            "scales": ((groups, rows), "float16"),
        }
        return {**headers, "g_idx": ((columns,), "int32")} if self.ordered else headers

    def wrong_values(
        self, tensors: Mapping[str, Tensor], layer: QuantizedTensor
    ) -> list[tuple[Tensor, str]]:
        """Return whether symmetric zero points are all off by one, as in the other version.

        GPTQ's programs have the middle level in every group of a symmetric layer; their configs do
        not always say in which version they wrote it.
        """
        if not layer.scheme.sym or not layer.zero.numel():
            return []
        from autoround.formats.gptq.tensors import off_by_one

        return off_by_one(layer)


_CLIENT_BITS = (2, 3, 4, 8)
#: As GPTQ's own programs write them.
GPTQ_V1 = GptqLayout("gptq", version=1, g_idx=True, bits=_CLIENT_BITS)
GPTQ_V2 = GptqLayout("gptq_v2", version=2, g_idx=True, bits=_CLIENT_BITS)
#: The same without ``g_idx``, as AutoRound writes them.
AUTO_ROUND_V1 = GptqLayout("auto_round:auto_gptq", version=1, g_idx=False)
AUTO_ROUND_V2 = GptqLayout("auto_round", version=2, g_idx=False)
