"""The format ``fake``: dequantized weights in 16 bit, for programs that know no other.

The name is auto-round's. Nothing in such a checkpoint says that it was quantized.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from autoround.errors import FormatError
from autoround.formats.format import BaseLayout, Float16Format, Layout, Undescribed
from autoround.formats.parts import inexact_values
from autoround.types import QuantizedTensor, Scheme

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class DequantizedLayout(BaseLayout):
    """One dense weight, [out, in]."""

    name = "fake"
    parts: tuple[str, ...] = ("weight",)
    dense = True

    def to_tensors(self, layer: QuantizedTensor) -> dict[str, Tensor]:
        """Dequantize a weight.

        Returns:
            ``weight`` float32 [out, in]; the writer brings it to the dtype of the output.
        """
        from autoround.core.rounding import dense_weight

        return {"weight": dense_weight(layer)}

    def from_tensors(
        self, tensors: Mapping[str, Tensor], scheme: Scheme, *, name: str
    ) -> QuantizedTensor:
        """Refuse: the codes cannot be read back from a dense weight.

        Raises:
            FormatError: always.
        """
        raise FormatError(f"layer {name}: a dequantized weight holds no codes")

    def inexact(self, layer: QuantizedTensor, dtype: torch.dtype) -> str:
        """Return how many weights the dtype that is written does not hold."""
        from autoround.core.rounding import dense_weight

        return inexact_values(dense_weight(layer), dtype, what="weights")


class DequantizedFormat(Undescribed, Float16Format):
    """Plain checkpoints of dequantized weights: there is nothing to say of them."""

    name = "fake"
    layouts: tuple[Layout, ...] = (DequantizedLayout(),)


FORMATS = (DequantizedFormat(),)
