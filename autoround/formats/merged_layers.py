"""Layers that serving engines merge into one: they must share a scheme.

vLLM and SGLang run q, k and v of one attention as a single product, gate and up of one
MLP likewise, and all experts of a layer by one kernel. What they do where the parts differ is in
the table of engines, :mod:`autoround.planning.serving.table`. Where they agree, engines look some
rules of a config up by the name of the merged layer, which no file has.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from autoround.formats.written import written_layers
from autoround.types import LayerPlan, Scheme

#: Last names of layers that are merged, side by side below one module, and what engines call them.
MERGED: Mapping[tuple[str, ...], tuple[str, ...]] = {
    ("q_proj", "k_proj", "v_proj"): ("qkv_proj",),
    ("gate_proj", "up_proj"): ("gate_up_proj",),
    ("w1", "w3"): ("gate_up_proj", "w13"),
    ("c_fc_0", "c_fc_1"): ("gate_up_proj",),
    # vLLM's name, then SGLang's.
    ("q_a_proj", "kv_a_proj_with_mqa"): ("fused_qkv_a_proj", "fused_qkv_a_proj_with_mqa"),
    ("in_proj_qkv", "in_proj_z"): ("in_proj_qkvz",),
    ("in_proj_b", "in_proj_a"): ("in_proj_ba",),
    ("key_proj", "value_proj"): ("kv_proj",),
    ("wq_a", "wkv"): ("fused_wqa_wkv",),
    ("wk", "weights_proj"): ("wk_weights_proj",),
}
#: What single architectures merge beyond that: named where all parts are there and agree, but not
#: asked to, because others run the same names one by one.
_SOMETIMES: Mapping[tuple[str, ...], str] = {
    ("q_proj", "k_proj", "v_proj", "g_proj"): "in_proj_qkvg",
    ("q_proj", "k_proj", "v_proj", "b_proj"): "qkvb_proj",
    ("q_proj", "k_proj", "v_proj", "b_proj", "f_a_proj"): "in_proj_qkvgfab",
    ("q_a_proj", "kv_a_proj_with_mqa", "g_proj"): "fused_qkv_a_g_proj",
    ("wkv", "wgate"): "fused_wkv_wgate",
}
# An expert by itself, or all of a layer in one tensor.
_EXPERT = re.compile(r"^(.*\.experts)\.(?:\d+\.)?\w+$")


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
    experts = experts_of(name)
    if experts:
        return f"{experts}.*"
    parent, _, own = name.rpartition(".")
    if experts_only:
        return ""
    return next((f"{parent}.{{{','.join(names)}}}" for names in MERGED if own in names), "")


def describe_schemes(layers: Iterable[LayerPlan]) -> str:
    """Return the schemes of layers that are merged, in words.

    Args:
        layers: as planned.
    """
    schemes = {str(layer.scheme) if layer.scheme else "16 bit" for layer in layers}
    return " and ".join(sorted(schemes))


def engine_names(schemes: Mapping[str, Scheme | None]) -> dict[str, Scheme | None]:
    """Return merged layers by the names that engines have for them, where their parts agree.

    Args:
        schemes: of layers by their names in files or in the class; None for 16 bit.

    Returns:
        Such as ``model.layers.0.mlp.gate_up_proj`` or ``model.layers.0.mlp.experts`` with the
        scheme of the parts; what the files themselves have under such a name is left out.
    """
    parents: dict[str, dict[str, Scheme | None]] = {}
    experts: dict[str, set[Scheme | None]] = {}
    for name, scheme in schemes.items():
        module = experts_of(name)
        if module:
            experts.setdefault(module, set()).add(scheme)
        else:
            parent, _, own = name.rpartition(".")
            parents.setdefault(parent, {})[own] = scheme
    merged = {
        f"{parent}.{name}": next(iter(parts.values()))
        for parent, inside in parents.items()
        for name, parts in _side_by_side(inside)
        if len(set(parts.values())) == 1
    }
    merged |= {name: next(iter(kinds)) for name, kinds in experts.items() if len(kinds) == 1}
    return {name: scheme for name, scheme in merged.items() if name not in schemes}


def experts_of(name: str) -> str:
    """Return the module of the experts that a layer is one of; empty for any other layer.

    Args:
        name: of the layer in the files.
    """
    expert = _EXPERT.match(name)
    return expert[1] if expert else ""


def experts_modules(layers: Iterable[LayerPlan]) -> dict[str, Scheme | None]:
    """Return the modules of experts that are all alike, by their names in files and in the class.

    Programs that load by transformers' class know no other name; some files have others.

    Args:
        layers: as planned, experts stacked.
    """
    layers = list(layers)
    by_class = {layer.name: layer.scheme for layer in layers if layer.experts}
    by_file = {layer.name: layer.scheme for layer in written_layers(layers)}
    names = engine_names(by_class) | engine_names(by_file)
    return {name: scheme for name, scheme in names.items() if merges_experts(name)}


def merges_experts(name: str) -> bool:
    """Tell whether a merged layer is that of experts.

    Args:
        name: that engines have for it.
    """
    return name.endswith(".experts")


def _side_by_side(
    inside: Mapping[str, Scheme | None],
) -> list[tuple[str, dict[str, Scheme | None]]]:
    """Return the merged names below one module, each with the parts that are there."""
    merged: list[tuple[str, dict[str, Scheme | None]]] = []
    for names, engines in MERGED.items():
        # Some attentions have no v of their own: two parts are enough.
        parts = {name: inside[name] for name in names if name in inside}
        merged += [(engine, parts) for engine in engines if len(parts) > 1]
    for names, engine in _SOMETIMES.items():
        if all(name in inside for name in names):
            merged.append((engine, {name: inside[name] for name in names}))
    return merged
