"""The ``auto_awq`` format: AWQ checkpoints, version gemm, 4 bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autoround._version import __version__
from autoround.formats.config_values import read_flag
from autoround.formats.layer_patterns import layer_patterns
from autoround.formats.merged_layers import engine_names, experts_modules, experts_of
from autoround.formats.schemes import group_key, most_common
from autoround.formats.written import described
from autoround.types import Plan


def config(plan: Plan) -> dict[str, Any]:
    """Return the ``quantization_config`` that describes a plan to loaders.

    Args:
        plan: its layers, all quantized ones of one scheme.

    Returns:
        AWQ's keys, and rules of GPTQModel where layers of blocks are kept.
    """
    layers, outside = described(plan)
    base = most_common([layer.scheme for layer in layers if layer.scheme is not None])
    schemes = {layer.name: layer.scheme for layer in (*layers, *outside)}
    alike = experts_modules(layer for block in plan.blocks for layer in block.layers)
    merged = engine_names(schemes) | alike
    kept = [name for name, scheme in (schemes | merged).items() if scheme is None]
    inside = [x.name for x in layers if x.scheme is None and experts_of(x.name) not in alike]
    experts = [name for name, scheme in alike.items() if scheme is None]
    result: dict[str, Any] = {
        "quant_method": "awq",
        "version": "gemm",
        "bits": base.bits,
        "group_size": group_key(base),
        # The files always have zero points, the middle level where weights are symmetric: vLLM
        # has its fast kernels for true alone.
        "zero_point": True,
        "modules_to_not_convert": kept or None,
        "meta": {"quantizer": [f"autoround-toolkit:{__version__}"], "sym": base.sym},
    }
    if inside or experts:
        # GPTQModel goes by rules of its own, also where it reads AWQ.
        patterns = layer_patterns(plan)
        rules = [patterns.one(name) for name in inside]
        rules += [patterns.one(name, with_inside=True) for name in experts]
        result["dynamic"] = {f"-:{rule}": {} for rule in rules}
    return result


def symmetric(config: Mapping[str, Any]) -> bool:
    """Tell whether all zero points of a checkpoint are the middle level.

    Args:
        config: of any program; ours says so in ``meta``, others by having no zero points.
    """
    meta = config.get("meta")
    told = meta.get("sym") if isinstance(meta, Mapping) else None
    where = "of the model"
    given = read_flag(config.get("zero_point"), key="zero_point", where=where, missing=True)
    return bool(told) or not given
