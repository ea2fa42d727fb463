"""The ``compressed-tensors`` format (``llm_compressor``), as vLLM and transformers read it.

Layers of one scheme form a group. A model of one scheme targets the class ``Linear`` and
lists what it keeps; a mixed one names its layers, because every layer must belong to one
group only. Experts that are all alike are one regex, by which transformers knows their group.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from autoround.errors import FormatError
from autoround.formats.written import described
from autoround.types import PER_CHANNEL, LayerPlan, Plan, Scheme

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


def quantized_layers(
    config: Mapping[str, Any], names: Collection[str], tensors: Collection[str]
) -> dict[str, Scheme]:
    """Return the scheme of every layer of some, all of which hold packed weights.

    Args:
        config: of compressed-tensors.
        names: the layers with a ``weight_packed``.
        tensors: names of all tensors in the files.

    Raises:
        FormatError: the config is of another kind, a layer belongs to no group, or its inputs are
            reordered.
    """
    if config.get("format") != FORMAT:
        raise FormatError(
            f"compressed-tensors format {config.get('format')!r} cannot be read; legal: {FORMAT}"
        )
    groups = config.get("config_groups")
    if not isinstance(groups, Mapping) or not all(isinstance(g, Mapping) for g in groups.values()):
        raise FormatError("quantization_config.config_groups is not a table of groups")
    found = {}
    for name in names:
        if f"{name}.weight_g_idx" in tensors:
            raise FormatError(
                f"layer {name}: its inputs are reordered (actorder); such checkpoints of "
                "compressed-tensors cannot be read"
            )
        found[name] = _scheme(_group_of(name, groups), name)
    return found


def _group_of(name: str, groups: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the group of a layer: by its name first, then by a regex, then by a class."""
    by_class: Mapping[str, Any] | None = None
    by_regex: Mapping[str, Any] | None = None
    for group in groups.values():
        for target in group.get("targets") or ():
            if target == name:
                return group
            if str(target).startswith("re:"):
                # The first regex wins; the search goes on for a target that is the name itself.
                if by_regex is None and _matches(str(target)[3:], name):
                    by_regex = group
            elif target == "Linear" and by_class is None:
                by_class = group
    found = by_regex if by_regex is not None else by_class
    if found is None:
        raise FormatError(f"layer {name} holds packed weights, but no config group targets it")
    return found


def _matches(pattern: str, name: str) -> bool:
    try:
        return re.match(pattern, name) is not None
    except re.error as error:
        raise FormatError(f"target 're:{pattern}' is not a regex: {error}") from None


def _scheme(group: Mapping[str, Any], name: str) -> Scheme:
    weights = group.get("weights")
    if not isinstance(weights, Mapping) or weights.get("type", "int") != "int":
        raise FormatError(f"layer {name}: only groups of integer weights can be read")
    if group.get("input_activations") or group.get("output_activations"):
        raise FormatError(f"layer {name}: only 16-bit activations can be read")
    bits, size = weights.get("num_bits"), weights.get("group_size")
    strategy = weights.get("strategy") or ("group" if size else "channel")
    if strategy not in ("group", "channel") or bits not in (4, 8):
        raise FormatError(
            f"layer {name}: {bits} bits by {strategy} cannot be read; legal: 4 or 8 bits by "
            "group or channel"
        )
    if strategy == "channel":
        size = PER_CHANNEL
    if not isinstance(size, int) or (size < 1 and size != PER_CHANNEL):
        raise FormatError(f"layer {name}: group_size is {size!r}; legal: 1 and more, -1 (channel)")
    return Scheme(bits, size, bool(weights.get("symmetric", True)))
