"""The ``compressed-tensors`` format (``llm_compressor``), as vLLM and transformers read it.

Layers of one scheme form a group. A model of one scheme targets the class ``Linear`` and
lists what it keeps; a mixed one names its layers, because every layer must belong to one
group only. Experts that are all alike are one regex, by which transformers knows their group.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from autoround.formats.written import described, written_layers
from autoround.types import LayerPlan, Plan, Scheme

METHOD = "compressed-tensors"
FORMAT = "pack-quantized"
_EXPERT = re.compile(r"\.experts\.\d+\.")
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
    for layer in [*layers, *outside]:
        if layer.scheme is not None:
            groups.setdefault(layer.scheme, []).append(layer.name)
    single = len(groups) == 1
    if len(_expert_schemes(layers)) == 1:
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
                "targets": ["Linear"] if single else names,
                "weights": _arguments(scheme),
                "input_activations": None,
                "output_activations": None,
            }
            for index, (scheme, names) in enumerate(groups.items())
        },
    }


def _expert_schemes(layers: Iterable[LayerPlan]) -> set[Scheme | None]:
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


def notes(layers: Sequence[LayerPlan]) -> list[str]:
    """Return what a reader of the plan should know about clients.

    Args:
        layers: all of the plan, unquantized ones too.

    Returns:
        A sentence for each note.
    """
    schemes = {layer.scheme for layer in layers if layer.scheme is not None}
    found = []
    if not all(scheme.sym for scheme in schemes):
        found.append(
            "transformers loads asymmetric compressed-tensors files only with "
            "quantization_config=CompressedTensorsConfig(dequantize=True)"
            if len(schemes) == 1
            else "transformers cannot load compressed-tensors files of several schemes where one "
            "is asymmetric: make all symmetric for it"
        )
    if len(_expert_schemes(written_layers(layers))) > 1:
        found.append(
            "transformers reads one scheme for all experts of compressed-tensors files, and "
            "refuses this model, whose experts have several"
        )
    return found
