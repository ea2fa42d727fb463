"""Reading configs of compressed-tensors, as llm-compressor and other programs write them.

A layer with a ``weight_packed`` is quantized. Of the groups that target it by its name, by an end
of it, by a regex or by its class, the first whose scheme fits its tensors says how.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from autoround.errors import FormatError
from autoround.formats.compressed_tensors.config import FORMAT
from autoround.formats.compressed_tensors.layout import PACK_QUANTIZED
from autoround.formats.config_values import read_bits, read_flag, read_group_size
from autoround.formats.fitting import Candidate, choose_scheme, headers_in
from autoround.formats.format import PackedLayer, packed_by
from autoround.formats.layer_keys import flat_names, table
from autoround.patterns import PatternError, matches
from autoround.types import PER_CHANNEL, Scheme

#: A config whose groups are in different formats, each of which names its own.
MIXED = "mixed-precision"
Groups = Mapping[str, Mapping[str, Any]]


def packed_layers(
    config: Mapping[str, Any], shapes: Mapping[str, tuple[int, int]], tensors: Collection[str]
) -> dict[str, PackedLayer]:
    """Return how every quantized layer is held.

    Args:
        config: of compressed-tensors.
        shapes: candidate layers and their shapes (out, in); zeros where these are not known.
        tensors: headers of all tensors in the files, or their names.

    Returns:
        The layers with a ``weight_packed``, and any that a group targets by its very name and that
        are not packed.

    Raises:
        FormatError: the config is of another kind, a layer belongs to no group or its inputs are
            reordered, or no scheme fits a layer's tensors.
    """
    groups = _groups(config)
    packed = set(packed_by("weight_packed", shapes, tensors))
    ignored = set(flat_names(config.get("ignore"), "ignore"))
    headers = headers_in(tensors)
    layers = {}
    for name, shape in shapes.items():
        if name in packed:
            if f"{name}.weight_g_idx" in tensors:
                raise FormatError(
                    f"layer {name}: its inputs are reordered (actorder); such checkpoints of "
                    "compressed-tensors cannot be read"
                )
            offered = _offers(name, groups)
            scheme = choose_scheme(name, offered, PACK_QUANTIZED, headers=headers, shape=shape)
            layers[name] = PackedLayer(scheme, PACK_QUANTIZED.name)
        elif name not in ignored and any(name in _targets(group) for group in groups.values()):
            # Named itself, a layer is meant; whoever calls this finds that its codes are missing.
            layers[name] = PackedLayer(_offers(name, groups)[0].scheme, PACK_QUANTIZED.name)
    return layers


def _groups(config: Mapping[str, Any]) -> Groups:
    """Return the groups of a config of packed integers; refuse any other."""
    whole = config.get("format")
    if whole not in (None, FORMAT, MIXED):
        raise FormatError(f"compressed-tensors format {whole!r} cannot be read; legal: {FORMAT}")
    sparse = table(config, "sparsity_config", of="keys").get("format") or "dense"
    if sparse != "dense":
        raise FormatError(
            f"compressed-tensors sparsity_config of format {sparse!r} cannot be read: weights that "
            "are left out of the files are not put back here; legal: dense"
        )
    groups = config.get("config_groups")
    if not isinstance(groups, Mapping) or not all(isinstance(g, Mapping) for g in groups.values()):
        raise FormatError("quantization_config.config_groups is not a table of groups")
    return groups


def _targets(group: Mapping[str, Any]) -> list[str]:
    value = group.get("targets")
    return [value] if isinstance(value, str) else flat_names(value, "targets")


def _offers(name: str, groups: Groups) -> list[Candidate]:
    """Return the schemes of all groups that target a layer, the likeliest first."""
    offered, reasons = [], []
    for key, target in _targeting(name, groups):
        try:
            scheme = _scheme(groups[key], name, key)
        except FormatError as error:
            reasons.append(error)
            continue
        offered.append(Candidate(scheme, f"{key} by {target!r}"))
    if offered:
        return offered
    if reasons:
        raise reasons[0]
    raise FormatError(f"layer {name} holds packed weights, but no config group targets it")


def _targeting(name: str, groups: Groups) -> Iterator[tuple[str, str]]:
    """Yield groups and their targets: by the name, by an end of it, by a regex, by a class."""
    targets = [(key, target) for key, group in groups.items() for target in _targets(group)]
    yield from ((key, target) for key, target in targets if target == name)
    ends = [(key, target) for key, target in targets if name.endswith(f".{target}")]
    yield from sorted(ends, key=lambda end: len(end[1]), reverse=True)
    for key, target in targets:
        if target.startswith("re:") and _matches(target[3:], name):
            yield key, target
    # Classes of layers are all linear ones of some program: Linear, ColumnParallelLinear.
    yield from ((k, t) for k, t in targets if t.endswith("Linear") and t.isidentifier())


def _matches(pattern: str, name: str) -> bool:
    try:
        return matches(pattern, name)
    except PatternError as error:
        raise FormatError(f"target 're:{pattern[:200]}' is not a regex: {error}") from None


def _scheme(group: Mapping[str, Any], name: str, key: str) -> Scheme:
    held = group.get("format")
    if held not in (None, FORMAT):
        raise FormatError(
            f"layer {name}: its group {key} is in format {held!r}, which cannot be read; legal: "
            f"{FORMAT}"
        )
    weights = group.get("weights")
    if not isinstance(weights, Mapping) or weights.get("type") not in (None, "int"):
        raise FormatError(f"layer {name}: only groups of integer weights can be read")
    if group.get("input_activations") or group.get("output_activations"):
        raise FormatError(f"layer {name}: only 16-bit activations can be read")
    where = f"of layer {name}"
    bits = read_bits(weights.get("num_bits"), where=where)
    size = read_group_size(weights.get("group_size"), where=where)
    strategy = weights.get("strategy") or ("group" if size > 0 else "channel")
    if strategy not in ("group", "channel"):
        raise FormatError(
            f"layer {name}: scales by {strategy!r} cannot be read; legal: group, channel"
        )
    size = PER_CHANNEL if strategy == "channel" else size
    sym = read_flag(weights.get("symmetric"), key="symmetric", where=where, missing=True)
    scheme = Scheme(bits, size, sym)
    reason = PACK_QUANTIZED.illegal(scheme)
    if reason:
        raise FormatError(f"layer {name}: {scheme}: {reason}")
    return scheme
