"""Layers that serving engines merge into one: they must share a scheme.

vLLM and SGLang run q, k and v of one attention as a single product, gate and up of one
MLP likewise, and all experts of a layer by one kernel. Where the parts differ, they refuse
the model or, worse, read one part with the scheme of another.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from autoround.formats.written import written_layers
from autoround.types import LayerPlan

#: Last names of layers that are merged, side by side below one module.
MERGED = (
    ("q_proj", "k_proj", "v_proj"),
    ("gate_proj", "up_proj"),
    ("w1", "w3"),
    ("q_a_proj", "kv_a_proj_with_mqa"),
)
_EXPERT = re.compile(r"^(.*\.experts)\.\d+\.")


def disagreements(layers: Iterable[LayerPlan]) -> list[str]:
    """Return a line for each merged layer whose parts have different schemes.

    Args:
        layers: as planned.
    """
    groups: dict[str, dict[str, LayerPlan]] = {}
    for layer in written_layers(layers):
        group = merged_under(layer.name)
        if group:
            groups.setdefault(group, {})[layer.name] = layer
    return [
        f"{name}: {_spell(parts)}"
        for name, parts in groups.items()
        if len({part.scheme for part in parts.values()}) > 1
    ]


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


def _spell(parts: Mapping[str, LayerPlan]) -> str:
    schemes = {str(part.scheme) if part.scheme else "16 bit" for part in parts.values()}
    return " and ".join(sorted(schemes))


def notes(layers: Iterable[LayerPlan]) -> list[str]:
    """Return what a reader of the plan should know.

    Args:
        layers: as planned.

    Returns:
        One line, or nothing where all merged layers agree.
    """
    found = disagreements(layers)
    if not found:
        return []
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return [
        f"vLLM and SGLang merge layers that here have different schemes ({found[0]}{more}); "
        "they will refuse this model or misread it, so give such layers the same scheme"
    ]
