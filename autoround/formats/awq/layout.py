"""AWQ's tensors (version gemm, 4 bits): everything packed along the outputs.

Per layer: ``qweight`` int32 [in, out/8], ``qzeros`` int32 [groups, out/8], ``scales``
float16 [groups, out]. Nibble n of a word, from the low bits, holds output ORDER[n] of its
eight; zero points are stored as they are.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from autoround.errors import FormatError
from autoround.formats.parts import assemble, matrix_part, uneven_groups
from autoround.formats.stacked import StackedLayout, expand_shared
from autoround.types import QuantizedTensor, Scheme

BITS = 4
#: Output of the eight that each nibble of a word holds.
ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def pack_columns(codes: Tensor) -> Tensor:
    """Pack 4-bit codes along the last axis; meta tensors give the shape.

    Args:
        codes: integers [..., 8n], values 0 … 15.

    Returns:
        int32 [..., n]; nibble k, from the low bits, is column ORDER[k] of its eight.
    """
    *lead, columns = codes.shape
    count = columns // len(ORDER)
    if codes.device.type == "meta":
        return torch.empty((*lead, count), dtype=torch.int32, device="meta")
    eights = codes.reshape(*lead, count, len(ORDER))
    # No two nibbles have a bit in common, so their sum is their union; int32 wraps at the top.
    if codes.device.type != "cpu":
        # All eight at once, four bytes each while they are added up: launches count there.
        return (eights.to(torch.int32) << _shifts(codes.device)).sum(-1, dtype=torch.int32)
    words = torch.zeros((*lead, count), dtype=torch.int32)
    for nibble, output in enumerate(ORDER):
        words += eights[..., output].to(torch.int32) << (BITS * nibble)
    return words


def _shifts(device: torch.device) -> Tensor:
    """Return how far up in a word each of its eight outputs is: int32 [8]."""
    outputs = torch.arange(len(ORDER), dtype=torch.int32, device=device)
    # The even ones are in the lower half of the word.
    return (outputs // 2 + len(ORDER) // 2 * (outputs % 2)) * BITS


def unpack_columns(words: Tensor) -> Tensor:
    """Undo :func:`pack_columns`.

    Args:
        words: int32 [..., n].

    Returns:
        uint8 [..., 8n].
    """
    *lead, count = words.shape
    shape = (*lead, count, len(ORDER))
    if words.device.type not in ("cpu", "meta"):
        values = (words.unsqueeze(-1) >> _shifts(words.device)) & 15
        return values.to(torch.uint8).reshape(*lead, count * len(ORDER))
    out = torch.empty(shape, dtype=torch.uint8, device=words.device)
    if words.device.type != "meta":
        for nibble, output in enumerate(ORDER):
            out[..., output] = ((words >> (BITS * nibble)) & 15).to(torch.uint8)
    return out.reshape(*lead, count * len(ORDER))


class AwqLayout(StackedLayout):
    """AWQ's tensors, under the name of one of the formats that use them."""

    parts: tuple[str, ...] = ("qweight", "qzeros", "scales")

    def __init__(self, name: str) -> None:
        self.name = name

    def illegal(self, scheme: Scheme) -> str:
        """Return why no weight with a scheme can be held, or an empty text."""
        return "" if scheme.bits == BITS else f"it holds {BITS} bits only, not {scheme.bits}"

    def why_not(self, shape: tuple[int, int], scheme: Scheme) -> str:
        """Return why a weight of shape (out, in) cannot be held, or an empty text."""
        if shape[0] % len(ORDER):
            return f"its output width {shape[0]} is not a multiple of {len(ORDER)}, which AWQ needs"
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
        if layer.scheme.bits != BITS:
            raise FormatError(f"AWQ holds {BITS} bits, not {layer.scheme.bits}")
        return {
            # Transposed: AWQ packs along the outputs, and its rows are inputs.
            "qweight": pack_columns(layer.codes.mT),
            "qzeros": pack_columns(expand_shared(layer.zero, layer).mT),
            "scales": expand_shared(layer.scale, layer).mT.contiguous(),
        }

    def take_apart(
        self, tensors: Mapping[str, Tensor], scheme: Scheme, columns: int
    ) -> QuantizedTensor:
        """Undo :meth:`lay_out` without checks: for tensors that it made."""
        codes, zero = (unpack_columns(tensors[part]).mT for part in ("qweight", "qzeros"))
        return QuantizedTensor(codes, tensors["scales"].mT, zero, scheme)

    def take_matrix_apart(
        self, tensors: Mapping[str, Tensor], scheme: Scheme, *, name: str
    ) -> QuantizedTensor:
        """Take tensors of any program apart, without a look at their values.

        Raises:
            FormatError: a tensor is missing, or has another dtype or shape than the layout.
        """
        if scheme.bits != BITS:
            raise FormatError(f"layer {name}: AWQ holds {BITS} bits, not {scheme.bits}")
        qweight, qzeros, scales = (
            matrix_part(tensors, part, name) for part in ("qweight", "qzeros", "scales")
        )
        parts = {"qweight": qweight, "qzeros": qzeros, "scales": scales}
        layer = self.take_apart(parts, scheme, qweight.shape[0])
        return assemble(layer.codes, layer.scale, layer.zero, scheme, name=name)


#: As AWQ's own programs write them, and as AutoRound does.
AWQ = AwqLayout("awq")
AUTO_ROUND_AWQ = AwqLayout("auto_round:auto_awq")
