"""From what tuning finds to what the block types of GGUF hold."""

from __future__ import annotations

import torch
from torch import Tensor

from autoround.core.grids.gguf_types import GGUF_TYPES
from autoround.core.grids.scales import NestedParts
from autoround.core.rounding import dense_weight
from autoround.formats.gguf.blocks import GgufTensor, dequantize
from autoround.types import QuantizedTensor


def dense(layer: QuantizedTensor | GgufTensor) -> Tensor:
    """Dequantize a whole layer, whatever holds its scales.

    Args:
        layer: as carried, or in a block type of GGUF.

    Returns:
        float32 [out, in].
    """
    return dense_weight(layer) if isinstance(layer, QuantizedTensor) else dequantize(layer)


def nested_tensor(kind: str, codes: Tensor, parts: NestedParts) -> GgufTensor:
    """Put codes and the parts of their super-blocks together, on the CPU.

    Args:
        kind: block type, one whose scales are nested.
        codes: uint8 [out, in].
        parts: scale [out, supers, 1] and sub_scale [out, supers, groups of each], float32, and
            the same of the minimum where there is one.

    Returns:
        The weight in the shapes and dtypes of its block type.
    """
    rows = codes.shape[0]
    # q4_1 and q5_1 are nested with one group a block, and have no sub-scales in the file.
    legacy = GGUF_TYPES[kind].sub_bits == 0

    def flat(part: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        return None if part is None else part.reshape(rows, -1).to("cpu", dtype)

    scale = flat(parts.scale, torch.float16)
    assert scale is not None
    return GgufTensor(
        kind,
        codes.to("cpu"),
        scale,
        None if legacy else flat(parts.sub_scale, torch.int8),
        _minimum(parts, rows) if legacy else flat(parts.minimum, torch.float16),
        None if legacy else flat(parts.sub_minimum, torch.int8),
    )


def _minimum(parts: NestedParts, rows: int) -> Tensor:
    """Return the minimum of types that hold one a group: nothing or all of the super-block's."""
    assert parts.minimum is not None
    assert parts.sub_minimum is not None
    whole = (parts.minimum * parts.sub_minimum).reshape(rows, -1)
    return whole.to("cpu", torch.float16)
