"""The ``compressed-tensors`` format (``llm_compressor``), as vLLM and transformers read it.

Layers of one scheme form a group. A model of one scheme targets the class ``Linear``, and what is
outside the blocks by name, and lists what it keeps; a mixed one names its layers, because every
layer must belong to one group only. Experts that are all alike are one regex, by which transformers
knows their group.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from autoround.formats.written import block_lists, described
from autoround.types import LayerPlan, Plan, Scheme

METHOD = "compressed-tensors"
FORMAT = "pack-quantized"
_EXPERT = re.compile(r"\.experts\.\d+\.")
#: The name of the head in transformers, and in vLLM where a model has images.
HEAD, VLLM_HEAD = "lm_head", "language_model.lm_head"
#: All experts of a model, as a target.
_EXPERTS = r"re:.*\.experts\.\d+\..*"


def config(plan: Plan) -> dict[str, Any]:
    """Return the ``quantization_config`` that describes a plan to loaders.

    Args:
        plan: its layers with their schemes.

    Returns:
        The keys of compressed-tensors, one group of ``config_groups`` a scheme.
    """
    layers, outside = described(plan)
    groups: dict[Scheme, list[str]] = {}
    for layer in [*layers, *outside, *_head_of_vllm(plan, outside)]:
        if layer.scheme is not None:
            groups.setdefault(layer.scheme, []).append(layer.name)
    single = len(groups) == 1
    # vLLM's head is of another class than Linear: it goes by its name.
    inside = {layer.name for layer in layers}
    heads = [name for names in groups.values() for name in names if name not in inside]
    if len(expert_schemes(layers)) == 1:
        groups = {scheme: _experts_as_one(names) for scheme, names in groups.items()}
    return {
        "quant_method": METHOD,
        "format": FORMAT,
        "quantization_status": "compressed",
        "global_compression_ratio": None,
        "kv_cache_scheme": None,
        "ignore": [layer.name for layer in (*layers, *outside) if layer.scheme is None],
        "config_groups": {
            f"group_{index}": {
                "targets": ["Linear", *heads] if single else names,
                "weights": _arguments(scheme),
                "input_activations": None,
                "output_activations": None,
            }
            for index, (scheme, names) in enumerate(groups.items())
        },
    }


def _head_of_vllm(plan: Plan, outside: Iterable[LayerPlan]) -> list[LayerPlan]:
    """Return the head by the name that vLLM has for it in models with images, if it has another.

    vLLM renames the targets that are paths as it renames tensors; the head is none.
    """
    within = any("language_model" in path.split(".") for path in block_lists(plan))
    return [replace(x, name=VLLM_HEAD) for x in outside if within and x.name == HEAD]


def expert_schemes(layers: Iterable[LayerPlan]) -> set[Scheme | None]:
    """Return the schemes of all experts, None among them where some are kept.

    Args:
        layers: as the files name them.
    """
    return {layer.scheme for layer in layers if _EXPERT.search(layer.name)}


def _experts_as_one(names: list[str]) -> list[str]:
    """Name all experts by one regex: the place where transformers looks for their scheme."""
    others = [name for name in names if not _EXPERT.search(name)]
    return others if len(others) == len(names) else [*others, _EXPERTS]


def _arguments(scheme: Scheme) -> dict[str, Any]:
    """Write a scheme with the library's keys; one scale a tensor is written once a channel."""
    size = scheme.group_size if scheme.group_size > 0 else None
    return {
        "num_bits": scheme.bits,
        "type": "int",
        "symmetric": scheme.sym,
        "strategy": "group" if size else "channel",
        "group_size": size,
        "dynamic": False,
    }
