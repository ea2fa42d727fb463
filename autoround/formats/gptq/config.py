"""The ``auto_gptq`` and ``gptq_v2`` formats: GPTQ checkpoints as its clients write them.

Version 1 stores zero points minus one and is what every client reads; version 2 stores
them as they are. Layers that differ from the rest are named by ``dynamic`` rules, which
GPTQModel, vLLM and SGLang read: the last two by the names of merged layers. Kept ones stand also
in ``modules_in_block_to_quantize``, which transformers reads.
"""

from __future__ import annotations

from typing import Any

from autoround._version import __version__
from autoround.formats.layer_patterns import (
    has_head_name,
    kept_parts,
    layer_patterns,
    quantized_heads,
)
from autoround.formats.merged_layers import engine_names, experts_modules, experts_of
from autoround.formats.schemes import group_key, most_common
from autoround.formats.written import among_blocks, block_lists, described, written_layers
from autoround.types import OutputPlan, Plan, Scheme


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
    heads = quantized_heads(layer_patterns(plan), outside)
    result: dict[str, Any] = {
        "quant_method": "gptq",
        "checkpoint_format": output.packing,
        "bits": base.bits,
        "group_size": group_key(base),
        "sym": base.sym,
        "desc_act": False,
        "true_sequential": False,
        "lm_head": bool(heads),
        "damp_percent": 0.01,
        "block_name_to_quantize": block_lists(plan)[0],
        "meta": {"quantizer": [f"autoround-toolkit:{__version__}"]},
    }
    rules = dynamic_rules(plan, base)
    if rules:
        result["dynamic"] = rules
    inside = modules_in_block(plan)
    if inside is not None:
        # vLLM takes what is not in the list for kept, the head too; transformers looks for these
        # names in the blocks alone.
        result["modules_in_block_to_quantize"] = [*inside, heads] if heads else inside
    return result


def dynamic_rules(plan: Plan, base: Scheme) -> dict[str, dict[str, Any]]:
    """Return a rule for each layer that differs from the rest, and for what engines merge.

    Args:
        plan: its layers with their schemes.
        base: the scheme of a layer without a rule.

    Returns:
        Regexes after ``-:``, which leaves a layer as it is, or ``+:``, which gives it other keys
        than the model.
    """
    layers, outside = described(plan)
    patterns = layer_patterns(plan)
    among = [x for x in outside if among_blocks(plan, x.name)]
    # The key `lm_head` speaks of a head that is kept.
    beside = [x for x in outside if x not in among and (x.scheme or not has_head_name(x.name))]
    whole = kept_parts(patterns, beside)
    named = [*layers, *among, *(x for x in beside if patterns.part(x.name) not in whole)]
    schemes = {layer.name: layer.scheme for layer in named}
    rules: dict[str, dict[str, Any]] = {"-:" + patterns.whole(part): {} for part in whole}
    alike = experts_modules(layer for block in plan.blocks for layer in block.layers)
    merged = engine_names(schemes) | alike
    for name, scheme in (schemes | merged).items():
        if experts_of(name) in alike:
            continue
        pattern = patterns.one(name, with_inside=name in alike)
        if scheme is None:
            rules["-:" + pattern] = {}
        elif scheme != base:
            rules["+:" + pattern] = {
                "bits": scheme.bits,
                "group_size": group_key(scheme),
                "sym": scheme.sym,
            }
    return rules


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
