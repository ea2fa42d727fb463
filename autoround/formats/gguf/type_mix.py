"""Which block type each tensor of a GGUF file gets, by llama.cpp's rules for its file types.

A file type such as Q4_K_M is a base type and exceptions: the head and some sensitive
matrices get more bits. The rules go by the tensor's name in the file, its layer, and a
few traits of the model; they are those of llama.cpp's ``llama-quantize`` without its
special case for importance matrices in Q4_0 and Q5_0. A row that is no multiple of a
block's weights falls back to a type of 32 weights a block, and to float16 beyond that.
"""

from __future__ import annotations

from typing import NamedTuple

from autoround.core.grids.gguf_types import GGUF_TYPES, scheme_of_type
from autoround.formats.gguf.file_types import BASES
from autoround.types import Scheme

#: Tensors that are not quantized.
F16, F32 = "f16", "f32"
_FALLBACK = {"q2_k": "q4_0", "q3_k": "q4_0", "q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0"}
_ATTN_V = ("attn_v", "attn_qkv", "attn_kv_b")


class Traits(NamedTuple):
    """What the rules ask of a model.

    layers: decoder blocks. sharing: attention heads per key-value head.
    experts: of one layer, 0 if dense. tied: the embeddings are the head as well.
    """

    architecture: str
    layers: int
    sharing: int
    experts: int
    tied: bool


def scheme_of(kind: str) -> Scheme | None:
    """Return the scheme of a tensor type; None for one that is not quantized.

    Args:
        kind: block type, or ``f16`` or ``f32``.
    """
    return None if kind in (F16, F32) else scheme_of_type(kind)


def kind_of(scheme: Scheme) -> str | None:
    """Return the block type that holds a scheme, or None.

    Args:
        scheme: a plain one, or one of a block type.
    """
    return next((kind for kind in GGUF_TYPES if scheme_of_type(kind) == scheme), None)


def kind_for(
    file_type: str, name: str, *, shape: tuple[int, ...], layer: int, traits: Traits
) -> str:
    """Return the type of one tensor.

    Args:
        file_type: one of BASES.
        name: in the file, such as ``blk.0.attn_v.weight``.
        shape: rows and columns as stored, columns last.
        layer: number of its block, -1 outside blocks.
        traits: of the model.

    Returns:
        A block type, ``f16`` or ``f32``.
    """
    if not _quantized(name, shape):
        return F32
    return fitted(_chosen(file_type, name, shape, layer, traits), shape[-1])


def fitted(kind: str, columns: int) -> str:
    """Return the type that rows can have where another one is wanted.

    Args:
        kind: the wanted one.
        columns: weights of a row.

    Returns:
        The wanted one, its fallback of 32 weights a block, or ``f16``.
    """
    if columns % block_of(kind):
        # Blocks of 256 become blocks of 32, which may not divide the row either.
        kind = _FALLBACK.get(kind, F16)
    return F16 if kind != F16 and columns % block_of(kind) else kind


def block_of(kind: str) -> int:
    """Return the weights of one block; 1 for floating-point types.

    Args:
        kind: block type, or ``f16`` or ``f32``.
    """
    return GGUF_TYPES[kind].block if kind in GGUF_TYPES else 1


def _quantized(name: str, shape: tuple[int, ...]) -> bool:
    """Tell whether a tensor is quantized at all: matrices that are not norms or routers."""
    kept = ("_norm.weight", "ffn_gate_inp", "position_embd", "token_types", "rope_")
    return len(shape) > 1 and name.endswith("weight") and not any(word in name for word in kept)


def _chosen(file_type: str, name: str, shape: tuple[int, ...], layer: int, traits: Traits) -> str:
    base = BASES[file_type]
    # Such as attn_v of blk.0.attn_v.weight.
    own = name.split(".")[-2]
    if name == "output.weight" or (traits.tied and name == "token_embd.weight"):
        if shape[-1] % block_of(base):
            return "q8_0"
        return base if base == "q8_0" else "q6_k"
    if own in _ATTN_V:
        return _attention_value(file_type, own, layer, traits)
    # Beside eight experts, the matrices of the attention are a small part of the file.
    if own == "attn_k" and traits.experts == 8:
        return "q8_0"
    if own.startswith("ffn_down"):
        return _down(file_type, layer, traits)
    if own == "attn_output":
        return _attention_output(file_type, traits)
    return base


def more_bits(layer: int, layers: int) -> bool:
    """Tell whether a layer is in the first or last eighth, or every third between.

    Args:
        layer: its number, from 0.
        layers: of the model.
    """
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def _attention_value(file_type: str, own: str, layer: int, traits: Traits) -> str:
    kind = BASES[file_type]
    if file_type == "q2_k_s" and traits.sharing >= 4:
        kind = "q4_k"
    elif file_type == "q3_k_m":
        kind = "q5_k" if layer < 2 else "q4_k"
    elif file_type == "q3_k_l":
        kind = "q5_k"
    elif file_type in ("q4_k_m", "q5_k_m") and more_bits(layer, traits.layers):
        kind = "q6_k"
    elif file_type == "q4_k_s" and layer < 4:
        kind = "q5_k"
    # The models of 70 billion weights, whose value matrix is an eighth of the query's.
    large = traits.layers == 80 and traits.sharing > 1 and traits.architecture in _LARGE
    if large and kind in ("q3_k", "q4_k"):
        kind = "q5_k"
    return "q8_0" if traits.experts == 8 else kind


_LARGE = ("llama", "qwen2")


def _down(file_type: str, layer: int, traits: Traits) -> str:
    layers = traits.layers
    if file_type == "q2_k_s" and layer < layers // 8:
        return "q4_k"
    if file_type == "q3_k_m":
        return "q5_k" if layer < layers // 16 else "q4_k"
    if file_type == "q3_k_l":
        return "q5_k"
    if file_type in ("q4_k_m", "q5_k_m") and more_bits(layer, layers):
        return "q6_k"
    if file_type == "q4_k_s" and layer < layers // 8:
        return "q5_k"
    return BASES[file_type]


def _attention_output(file_type: str, traits: Traits) -> str:
    if traits.experts == 8:
        many = ("q3_k_s", "q3_k_m", "q4_k_s", "q4_k_m")
        return "q5_k" if file_type in many else BASES[file_type]
    return {"q3_k_m": "q4_k", "q3_k_l": "q5_k"}.get(file_type, BASES[file_type])
