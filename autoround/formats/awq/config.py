"""The ``auto_awq`` format: AWQ checkpoints, version gemm, 4 bits."""

from __future__ import annotations

from typing import Any

from autoround.formats.gptq.config import exactly
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
    kept = [layer.name for layer in (*layers, *outside) if layer.scheme is None]
    inside = [layer.name for layer in layers if layer.scheme is None]
    found: dict[str, Any] = {
        "quant_method": "awq",
        "version": "gemm",
        "bits": base.bits,
        "group_size": group_key(base),
        "zero_point": not base.sym,
        "modules_to_not_convert": kept or None,
    }
    if inside:
        # GPTQModel goes by rules of its own, also where it reads AWQ.
        found["dynamic"] = {"-:" + exactly(name): {} for name in inside}
    return found
