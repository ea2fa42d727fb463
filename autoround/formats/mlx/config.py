"""The ``mlx`` format: checkpoints as mlx-lm writes them, for Apple's processors.

config.json holds the scheme twice, as ``quantization`` and ``quantization_config``; layers
that differ stand in it by name. mlx-lm itself goes by the files: a layer with ``scales``
is quantized.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from autoround.errors import FormatError
from autoround.formats.config_values import read_bits, read_group_size
from autoround.formats.fitting import Candidate, choose_scheme, headers_in
from autoround.formats.format import packed_by
from autoround.formats.layer_keys import LayerKeys
from autoround.formats.mlx.layout import MLX
from autoround.formats.schemes import most_common
from autoround.formats.written import described
from autoround.types import Plan, Scheme

#: What a quantization_config of MLX is called here; it has no ``quant_method`` of its own.
METHOD = "mlx"
#: mlx-lm stacks the experts of a layer when it reads them, and then goes by its own names.
_EXPERT = re.compile(r"^(.*)\.experts\.\d+\.(\w+)$")
_PARTS = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}


def config(plan: Plan) -> dict[str, Any]:
    """Return the ``quantization`` that describes a plan to loaders.

    Args:
        plan: its layers with their schemes.

    Returns:
        mlx-lm's keys: the most common scheme, and by name the scheme of what differs.
    """
    layers, outside = described(plan)
    base = most_common([layer.scheme for layer in layers if layer.scheme is not None])
    found: dict[str, Any] = {**_keys(base), "mode": "affine"}
    for layer in layers:
        if layer.scheme is None:
            # mlx-lm reads False as a layer that is not quantized.
            found[layer.name] = False
        elif layer.scheme != base:
            found[layer.name] = _keys(layer.scheme)
            expert = _EXPERT.match(layer.name)
            if expert:
                part = _PARTS.get(expert[2], expert[2])
                found[f"{expert[1]}.switch_mlp.{part}"] = _keys(layer.scheme)
    for layer in outside:
        if layer.scheme is not None:
            found[layer.name] = _keys(layer.scheme)
    return found


def _keys(scheme: Scheme) -> dict[str, Any]:
    return {"group_size": scheme.group_size, "bits": scheme.bits}


def is_mlx(config: Mapping[str, Any]) -> bool:
    """Tell whether a quantization config is MLX's.

    Args:
        config: of any program.
    """
    known = "bits" in config and "group_size" in config
    return known and "quant_method" not in config


def quantized_layers(
    config: Mapping[str, Any], names: Iterable[str], tensors: Collection[str]
) -> dict[str, Scheme]:
    """Return the scheme of every layer that the files hold quantized.

    Args:
        config: of MLX.
        names: candidate layers.
        tensors: names of all tensors in the files.

    Raises:
        FormatError: a value in the config is illegal.
    """
    tables = {key: value for key, value in config.items() if isinstance(value, Mapping)}
    keys = LayerKeys(tables, {name.rpartition(".")[0] for name in tensors})
    found = {}
    # The files decide, as for mlx-lm; plain layers have a bias, never biases.
    for name in packed_by("biases", names, tensors):
        offered = [
            *(_offer({**config, **tables[key]}, f"of layer {key}") for key in keys.matching(name)),
            _offer(config, "of the model"),
        ]
        found[name] = choose_scheme(name, offered, MLX, headers=headers_in(tensors))
        reason = MLX.illegal(found[name])
        if reason:
            raise FormatError(f"quantization of layer {name}: {reason}")
    return found


def _offer(keys: Mapping[str, Any], where: str) -> Candidate:
    mode = keys.get("mode") or "affine"
    if mode != "affine":
        raise FormatError(f"MLX quantization mode {mode!r} {where} cannot be read; legal: affine")
    bits = read_bits(keys.get("bits"), where=where)
    return Candidate(
        Scheme(bits, read_group_size(keys.get("group_size"), where=where), False), where
    )
