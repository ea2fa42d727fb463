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
from autoround.formats.format import BaseLayout
from autoround.formats.parts import assemble, matrix_part, uneven_groups
from autoround.types import QuantizedTensor, Scheme

BITS = 4
#: Output of the eight that each nibble of a word holds.
ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def pack_columns(codes: Tensor) -> Tensor:
    """Pack 4-bit codes along the last axis; meta tensors give the shape.

    Args:
        codes: integers [rows, 8n], values 0 … 15.

    Returns:
        int32 [rows, n]; nibble k, from the low bits, is column ORDER[k] of its eight.
    """
    rows, columns = codes.shape
    count = columns // len(ORDER)
    if codes.device.type == "meta":
        return torch.empty((rows, count), dtype=torch.int32, device="meta")
    # int64: the highest nibble, shifted by 28 bits, leaves int32.
    eights = codes.reshape(rows, count, len(ORDER)).to(torch.int64)
    words = torch.zeros((rows, count), dtype=torch.int64, device=codes.device)
    for nibble, output in enumerate(ORDER):
        words |= eights[:, :, output] << (BITS * nibble)
    # Words above 2**31 - 1 wrap to the negative int32 with the same bits.
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)


def unpack_columns(words: Tensor) -> Tensor:
    """Undo :func:`pack_columns`.

    Args:
        words: int32 [rows, n].

    Returns:
        uint8 [rows, 8n].
    """
    rows, count = words.shape
    out = torch.empty((rows, count, len(ORDER)), dtype=torch.uint8, device=words.device)
    if words.device.type != "meta":
        for nibble, output in enumerate(ORDER):
            out[:, :, output] = ((words >> (BITS * nibble)) & 15).to(torch.uint8)
    return out.reshape(rows, count * len(ORDER))


class AwqLayout(BaseLayout):
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

    def to_tensors(self, layer: QuantizedTensor) -> dict[str, Tensor]:
        """Lay a quantized weight out; meta tensors give shapes.

        Args:
            layer: codes [out, in], scale and zero [out, groups] or [1, 1] for a per-tensor scheme.

        Returns:
            ``qweight`` int32 [in, out/8], ``qzeros`` int32 [groups, out/8] and ``scales``
            [groups, out].

        Raises:
            FormatError: the weight does not have 4 bits.
        """
        if layer.scheme.bits != BITS:
            raise FormatError(f"AWQ holds {BITS} bits, not {layer.scheme.bits}")
        rows = layer.codes.shape[0]
        return {
            # Transposed: AWQ packs along the outputs, and its rows are inputs.
            "qweight": pack_columns(layer.codes.t()),
            "qzeros": pack_columns(layer.zero.expand(rows, -1).t()),
            "scales": layer.scale.expand(rows, -1).t().contiguous(),
        }

    def from_tensors(
        self, tensors: Mapping[str, Tensor], scheme: Scheme, *, name: str
    ) -> QuantizedTensor:
        """Read a quantized weight back.

        Raises:
            FormatError: a tensor is missing, or has another dtype or shape than the layout.
        """
        if scheme.bits != BITS:
            raise FormatError(f"layer {name}: AWQ holds {BITS} bits, not {scheme.bits}")
        qweight, qzeros, scales = (
            matrix_part(tensors, part, name) for part in ("qweight", "qzeros", "scales")
        )
        codes, zero = unpack_columns(qweight).t(), unpack_columns(qzeros).t()
        return assemble(codes, scales.t(), zero, scheme, name=name)


#: As AWQ's own programs write them, and as AutoRound does.
AWQ = AwqLayout("awq")
AUTO_ROUND_AWQ = AwqLayout("auto_round:auto_awq")
