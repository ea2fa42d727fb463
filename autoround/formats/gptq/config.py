"""The ``auto_gptq`` and ``gptq_v2`` formats: GPTQ checkpoints as its clients write them.

Version 1 stores zero points minus one and is what every client reads; version 2 stores
them as they are. Layers that differ from the rest are named by ``dynamic`` rules, which
GPTQModel and vLLM read, and kept ones also by ``modules_in_block_to_quantize``, which
transformers does.
"""

from __future__ import annotations

import re
from typing import Any

from autoround._version import __version__
from autoround.formats.schemes import group_key, most_common
from autoround.formats.written import among_blocks, block_lists, described, is_head, written_layers
from autoround.types import OutputPlan, Plan


def config(plan: Plan, output: OutputPlan) -> dict[str, Any]:
    """Return the ``quantization_config`` that describes a plan to loaders.

    Args:
        plan: its layers with their schemes.
        output: names the version, which is its packing.

    Returns:
        The keys of GPTQ's clients: the most common scheme, and ``dynamic`` rules for what differs.
    """
    layers, outside = described(plan)
    base = most_common([layer.scheme for layer in layers if layer.scheme is not None])
    head = next((x for x in outside if x.scheme is not None and is_head(x.name)), None)
    dynamic: dict[str, dict[str, Any]] = {}
    named = [x for x in outside if x.scheme is not None or among_blocks(plan, x.name)]
    # GPTQModel: `-:` leaves a layer as it is, `+:` gives it other keys than the model.
    for layer in [*layers, *named]:
        if layer.scheme is None:
            dynamic["-:" + exactly(layer.name)] = {}
        elif layer.scheme != base:
            dynamic["+:" + exactly(layer.name)] = {
                "bits": layer.scheme.bits,
                "group_size": group_key(layer.scheme),
                "sym": layer.scheme.sym,
            }
    found: dict[str, Any] = {
        "quant_method": "gptq",
        "checkpoint_format": output.packing,
        "bits": base.bits,
        "group_size": group_key(base),
        "sym": base.sym,
        "desc_act": False,
        "true_sequential": False,
        "lm_head": head is not None,
        "damp_percent": 0.01,
        "block_name_to_quantize": block_lists(plan)[0],
        "meta": {"quantizer": [f"autoround-toolkit:{__version__}"]},
    }
    if dynamic:
        found["dynamic"] = dynamic
    inside = modules_in_block(plan)
    if inside is not None:
        found["modules_in_block_to_quantize"] = inside
    return found


def exactly(name: str) -> str:
    """Return a regex that matches one name only.

    Args:
        name: of a layer.
    """
    return "^" + re.escape(name) + "$"


def modules_in_block(plan: Plan) -> list[list[str]] | None:
    """Return the quantized layers of a block, or None when all are or blocks differ.

    Args:
        plan: its blocks and their layers.

    Returns:
        One list of names inside a block: transformers takes lists of layers that it does together.
    """
    sets = {
        tuple(_inside(layer.name, block.name) for layer in written_layers(block.quantized))
        for block in plan.blocks
    }
    everything = all(layer.scheme is not None for block in plan.blocks for layer in block.layers)
    return None if everything or len(sets) != 1 else [list(next(iter(sets)))]


def _inside(name: str, block: str) -> str:
    """Return the name of a layer inside its block, whichever of their names the files have."""
    if name.startswith(block + "."):
        return name[len(block) + 1 :]
    number = block.rpartition(".")[2]
    return name.partition(f".{number}.")[2]
