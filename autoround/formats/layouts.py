"""Layouts of one quantized layer's tensors, by the name of their packing.

A layout is two pure functions between carried integers and named tensors; both run on
meta tensors, so sizes and shapes are known before anything is quantized.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from autoround.core.rounding import dense_weight
from autoround.errors import FormatError
from autoround.formats.auto_round.config import PACKING_AWQ, PACKING_PLAIN, PACKING_V1
from autoround.formats.awq import layout as awq_layout
from autoround.formats.compressed_tensors import layout as compressed_layout
from autoround.formats.gptq import layout as gptq_layout
from autoround.formats.mlx import layout as mlx_layout
from autoround.types import QuantizedTensor, Scheme

#: GPTQ checkpoints: version of the zero points.
GPTQ = {"gptq": 1, "gptq_v2": 2}
AWQ = "awq"
#: compressed-tensors, whose layers have tensors of other names.
COMPRESSED = "pack-quantized"
#: Apple's, for its processors.
MLX = "mlx"
#: Weights written out again in 16 bit, for programs that know no quantized format.
FAKE = "fake"
#: What the packings of GGUF's file types begin with; their bytes are not tensors by name.
GGUF = "gguf:"
#: Version of the zero points and whether ``g_idx`` is written, for layouts of GPTQ's kind.
_VERSIONS = {
    PACKING_V1: (1, False),
    PACKING_PLAIN: (2, False),
    **{name: (version, True) for name, version in GPTQ.items()},
}
_AWQ = (PACKING_AWQ, AWQ)
#: Every name of a layout.
LAYOUTS = (*_VERSIONS, *_AWQ, COMPRESSED, MLX, FAKE)
#: Tensors that hold a layer's weight in any layout; the codes are in one of the first two.
CODES = ("qweight", "weight_packed")
PARTS = (
    *CODES,
    *("qzeros", "scales", "g_idx"),
    *("weight", "biases"),
    *("weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx"),
)


def why_not(shape: tuple[int, int], scheme: Scheme, packing: str) -> str:
    """Return why a weight of shape (out, in) cannot be held, or an empty text."""
    if packing in _AWQ:
        return awq_layout.why_not(shape, scheme)
    if packing == COMPRESSED:
        return compressed_layout.why_not(shape, scheme)
    if packing == MLX:
        return mlx_layout.why_not(shape, scheme)
    if packing == FAKE:
        return ""
    return gptq_layout.why_not(shape)


def illegal(scheme: Scheme, packing: str) -> str:
    """Return why no weight with this scheme can be held, or an empty text."""
    if packing in _AWQ and scheme.bits != awq_layout.BITS:
        return f"it holds {awq_layout.BITS} bits only, not {scheme.bits}"
    if packing == COMPRESSED and scheme.bits not in compressed_layout.BITS:
        return f"it holds 4 or 8 bits, not {scheme.bits}"
    if packing == MLX:
        return mlx_layout.illegal(scheme)
    if packing in GPTQ and scheme.bits not in (2, 3, 4, 8):
        return f"it holds 2, 3, 4 or 8 bits, not {scheme.bits}"
    return ""


def headless(packing: str) -> str:
    """Return why no program reads a quantized output head in a layout, or an empty text."""
    if packing == AWQ:
        return "its programs keep the head in 16 bit whatever the files say"
    return ""


def lowest_zero(packing: str) -> int:
    """Return the lowest zero point that a layout can hold."""
    return 1 if packing in _VERSIONS and _VERSIONS[packing][0] == 1 else 0


def to_tensors(layer: QuantizedTensor, packing: str) -> dict[str, Tensor]:
    """Lay a quantized weight out as named tensors; meta tensors give shapes.

    Raises:
        FormatError: the layout cannot hold the weight.
    """
    if packing in _AWQ:
        return awq_layout.to_tensors(layer)
    if packing == COMPRESSED:
        return compressed_layout.to_tensors(layer)
    if packing == MLX:
        return mlx_layout.to_tensors(layer)
    if packing == FAKE:
        return {"weight": dense_weight(layer)}
    version, g_idx = _version(packing)
    return gptq_layout.to_tensors(layer, version=version, g_idx=g_idx)


def from_tensors(
    tensors: Mapping[str, Tensor], scheme: Scheme, *, packing: str, name: str
) -> QuantizedTensor:
    """Read a quantized weight back from its tensors.

    Raises:
        FormatError: a tensor is missing, or has another dtype or shape than the layout.
    """
    if packing in _AWQ:
        return awq_layout.from_tensors(tensors, scheme, name=name)
    if packing == COMPRESSED:
        return compressed_layout.from_tensors(tensors, scheme, name=name)
    if packing == MLX:
        return mlx_layout.from_tensors(tensors, scheme, name=name)
    return gptq_layout.from_tensors(tensors, scheme, version=_version(packing)[0], name=name)


def _version(packing: str) -> tuple[int, bool]:
    if packing not in _VERSIONS:
        raise FormatError(f"no layout is named {packing!r}; legal: {', '.join(LAYOUTS)}")
    return _VERSIONS[packing]
