"""GPTQ's tensors: codes packed along the inputs, zero points along the outputs.

Per layer: ``qweight`` int32 [in/32*bits, out], ``qzeros`` int32 [groups, out/32*bits],
``scales`` float16 [groups, out], and where asked ``g_idx`` int32 [in], the group of each
input. Version 1 stores ``zero - 1``, to which readers add 1; version 2 the zero itself.
Files with a zero point of 0 in version 1 exist, and are read; none is written.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from autoround.core.packing import BLOCK, pack_rows_unchecked, unpack_rows
from autoround.errors import FormatError
from autoround.formats.parts import assemble, matrix_part
from autoround.formats.stacked import Fault, StackedLayout, expand_shared
from autoround.types import QuantizedTensor, Scheme


def _zeros(packed: Tensor, bits: int, version: int) -> Tensor:
    """Unpack zero points: int32 [words, outputs] to uint8 [outputs, groups].

    GPTQModel takes the one of version 1 from whole words where fields do not cross them, so
    that a zero point of 0 borrows from the next field; adding it to whole words undoes that,
    and is the same for all others. Elsewhere each field is taken modulo 2**bits.
    """
    if version == 2:
        return unpack_rows(packed, bits)
    if 32 % bits == 0:
        # A one in each field; int32 wraps at the top, as it did when they were taken away.
        ones = sum(1 << shift for shift in range(0, 32, bits))
        return unpack_rows(packed + torch.tensor(ones, dtype=torch.int64).to(torch.int32), bits)
    return torch.bitwise_and(unpack_rows(packed, bits) + 1, 2**bits - 1)


class GptqLayout(StackedLayout):
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
        bits, columns = layer.scheme.bits, layer.codes.shape[-1]
        scale, zero = expand_shared(layer.scale, layer), expand_shared(layer.zero, layer)
        if self.version == 1:
            zero = zero - 1
        tensors = {
            # The axis before the last is packed: inputs of the codes, outputs of zero points.
            "qweight": pack_rows_unchecked(layer.codes.mT, bits).contiguous(),
            "qzeros": pack_rows_unchecked(zero, bits).mT.contiguous(),
            "scales": scale.mT.contiguous(),
        }
        # Neighbours share a group; converting a desc_act file puts its own index in this place.
        if self.ordered:
            width = layer.scheme.group_size if layer.scheme.group_size > 0 else columns
            index = torch.arange(columns, dtype=torch.int32, device=layer.codes.device) // width
            tensors["g_idx"] = index.expand(*layer.codes.shape[:-2], -1).contiguous()
        return tensors

    def take_apart(
        self, tensors: Mapping[str, Tensor], scheme: Scheme, columns: int
    ) -> QuantizedTensor:
        """Undo :meth:`lay_out` without checks: for tensors that it made."""
        codes = unpack_rows(tensors["qweight"], scheme.bits).mT
        zero = _zeros(tensors["qzeros"].mT, scheme.bits, self.version)
        return QuantizedTensor(codes, tensors["scales"].mT, zero, scheme)

    def take_matrix_apart(
        self, tensors: Mapping[str, Tensor], scheme: Scheme, *, name: str
    ) -> QuantizedTensor:
        """Take tensors of any program apart; ``g_idx`` is not looked at.

        Raises:
            FormatError: a tensor is missing, or has another dtype or shape than the layout.
        """
        qweight, qzeros, scales = (
            matrix_part(tensors, part, name) for part in ("qweight", "qzeros", "scales")
        )
        if qweight.shape[0] % scheme.bits or qzeros.shape[1] % scheme.bits:
            raise FormatError(
                f"layer {name}: qweight {tuple(qweight.shape)} does not hold {scheme.bits}-bit "
                "values"
            )
        parts = {"qweight": qweight, "qzeros": qzeros, "scales": scales}
        layer = self.take_apart(parts, scheme, qweight.shape[0] // scheme.bits * BLOCK)
        return assemble(layer.codes, layer.scale, layer.zero, scheme, name=name)

    def wrong_values(
        self, tensors: Mapping[str, Tensor], layer: QuantizedTensor
    ) -> list[tuple[Tensor, str]]:
        """Return whether symmetric zero points are all off by one, as in the other version.

        GPTQ's programs have the middle level in every group of a symmetric layer; their configs do
        not always say in which version they wrote it.
        """
        if not layer.scheme.sym or not layer.zero.numel():
            return []
        middle = 2 ** (layer.scheme.bits - 1)
        return [
            (
                torch.all(layer.zero.flatten(-2) == other, dim=-1),
                f"all its zero points are {other}, and the quantization_config calls it symmetric, "
                f"which is {middle}: its files are of the other version than checkpoint_format "
                "(gptq, gptq_v2) or packing_format says",
            )
            for other in (middle - 1, middle + 1)
        ]


_CLIENT_BITS = (2, 3, 4, 8)
#: As GPTQ's own programs write them.
GPTQ_V1 = GptqLayout("gptq", version=1, g_idx=True, bits=_CLIENT_BITS)
GPTQ_V2 = GptqLayout("gptq_v2", version=2, g_idx=True, bits=_CLIENT_BITS)
#: The same without ``g_idx``, as AutoRound writes them.
AUTO_ROUND_V1 = GptqLayout("auto_round:auto_gptq", version=1, g_idx=False)
AUTO_ROUND_V2 = GptqLayout("auto_round", version=2, g_idx=False)
