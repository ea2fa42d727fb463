"""Layers that serving engines merge into one: they must share a scheme.

vLLM and SGLang run q, k and v of one attention as a single product, gate and up of one
MLP likewise, and all experts of a layer by one kernel. What they do where the parts differ is in
the table of engines, :mod:`autoround.planning.engine_table`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from autoround.types import LayerPlan

#: Last names of layers that are merged, side by side below one module, and what they become.
MERGED = {
    ("q_proj", "k_proj", "v_proj"): "qkv_proj",
    ("gate_proj", "up_proj"): "gate_up_proj",
    ("w1", "w3"): "gate_up_proj",
    ("q_a_proj", "kv_a_proj_with_mqa"): "fused_qkv_a_proj",
}
_EXPERT = re.compile(r"^(.*\.experts)\.\d+\.")


def merged_under(name: str, *, experts_only: bool = False) -> str:
    """Return a name for the layers that one is merged with, itself among them.

    Args:
        name: of the layer in the files.
        experts_only: whether only experts count as merged.

    Returns:
        A pattern such as ``model.layers.0.mlp.{gate_proj,up_proj}``; empty for a layer that is not
        merged.
    """
    # All experts of a layer go through one kernel, whatever their projections are called.
    expert = _EXPERT.match(name)
    if expert:
        return f"{expert[1]}.*"
    parent, _, own = name.rpartition(".")
    if experts_only:
        return ""
    return next((f"{parent}.{{{','.join(names)}}}" for names in MERGED if own in names), "")


def engine_name(name: str) -> str:
    """Return what serving engines call the layer that they merge one into.

    Args:
        name: of the layer in the files.

    Returns:
        Such as ``model.layers.0.self_attn.qkv_proj``; the name itself for one that is not merged.
    """
    expert = _EXPERT.match(name)
    if expert:
        return expert[1]
    parent, _, own = name.rpartition(".")
    return next((f"{parent}.{merged}" for names, merged in MERGED.items() if own in names), name)


def describe_schemes(layers: Iterable[LayerPlan]) -> str:
    """Return the schemes of layers that are merged, in words.

    Args:
        layers: as planned.
    """
    schemes = {str(layer.scheme) if layer.scheme else "16 bit" for layer in layers}
    return " and ".join(sorted(schemes))
