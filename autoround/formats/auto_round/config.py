"""The ``auto_round`` format: the tensors of GPTQ or AWQ with a config of its own.

Three packings: ``auto_round:auto_gptq`` stores ``zero - 1`` (the GPTQ v1 convention;
readers add 1) and serves symmetric grids, whose zero is never 0; ``auto_round:auto_awq`` is
AWQ's, which serving engines read asymmetric weights of 4 bits in; plain ``auto_round`` stores
the zero point itself, in GPTQ's layout, and holds the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from autoround.formats.awq.layout import AUTO_ROUND_AWQ, AWQ
from autoround.formats.format import PackedLayer
from autoround.formats.gptq.layout import AUTO_ROUND_V1, AUTO_ROUND_V2, GPTQ_V1, GPTQ_V2
from autoround.formats.merged_layers import engine_names, merges_experts
from autoround.formats.schemes import group_key, most_common
from autoround.formats.written import among_blocks, block_lists, described
from autoround.types import OutputPlan, Plan, Scheme

#: Layouts that ``packing_format`` may name.
PACKINGS = (AUTO_ROUND_V1.name, AUTO_ROUND_V2.name, AUTO_ROUND_AWQ.name)
#: Those whose tensors are the same as another format's, by the name of that.
_RESTATED = {
    GPTQ_V1.name: AUTO_ROUND_V1.name,
    GPTQ_V2.name: AUTO_ROUND_V2.name,
    AWQ.name: AUTO_ROUND_AWQ.name,
}


def config(plan: Plan, output: OutputPlan) -> dict[str, Any]:
    """Return the ``quantization_config`` that describes a plan to loaders.

    Args:
        plan: its layers with their schemes, at least one of a block quantized.
        output: names the packing.

    Returns:
        auto-round's keys: the most common scheme, and ``extra_config`` by name for what differs.
    """
    layers, outside = described(plan)
    base = most_common([layer.scheme for layer in layers if layer.scheme is not None])
    extra: dict[str, dict[str, Any]] = {}
    schemes = {layer.name: layer.scheme for layer in layers}
    # vLLM asks for the experts of a layer by the name of their module.
    schemes |= {n: s for n, s in engine_names(schemes).items() if merges_experts(n)}
    for name, scheme in schemes.items():
        if scheme is None:
            extra[name] = {"bits": 16, "data_type": "float"}
        elif scheme != base:
            extra[name] = {**_scheme_keys(scheme), "data_type": "int"}
    for layer in outside:
        # The rest of a model is kept unless it is named, but for what lies among the blocks.
        if layer.scheme is not None:
            extra[layer.name] = {**_scheme_keys(layer.scheme), "data_type": "int"}
        elif among_blocks(plan, layer.name):
            extra[layer.name] = {"bits": 16, "data_type": "float"}
    result: dict[str, Any] = {
        "quant_method": "auto-round",
        "packing_format": output.packing,
        **_scheme_keys(base),
        "data_type": "int",
        "block_name_to_quantize": ",".join(block_lists(plan)),
        "autoround_version": _version(),
    }
    if extra:
        result["extra_config"] = extra
    return result


def restated_config(
    layers: Mapping[str, PackedLayer], plain: Iterable[str], blocks: Sequence[str]
) -> dict[str, Any] | None:
    """Return the config that describes the layers of a GPTQ or AWQ checkpoint as auto-round's.

    Args:
        layers: packed ones, by their names in the files.
        plain: names in the files of the matrices that are not packed.
        blocks: paths of the decoder blocks.

    Returns:
        auto-round's keys; None where its packings do not hold the layers as they are.
    """
    packing = _RESTATED.get(next(iter({layer.packing for layer in layers.values()}), ""))
    if packing is None or len({layer.packing for layer in layers.values()}) > 1:
        return None
    base = most_common([layer.scheme for layer in layers.values()])
    inside = tuple(f"{block}." for block in blocks)
    extra: dict[str, dict[str, Any]] = {
        name: {"bits": 16, "data_type": "float"} for name in plain if name.startswith(inside)
    }
    for name, layer in layers.items():
        if layer.scheme != base or not name.startswith(inside):
            extra[name] = {**_scheme_keys(layer.scheme), "data_type": "int"}
    lists = dict.fromkeys(block.rpartition(".")[0] for block in blocks)
    return {
        "quant_method": "auto-round",
        "packing_format": packing,
        **_scheme_keys(base),
        "data_type": "int",
        "block_name_to_quantize": ",".join(lists),
        "autoround_version": _version(),
        **({"extra_config": extra} if extra else {}),
    }


def _scheme_keys(scheme: Scheme) -> dict[str, Any]:
    return {"bits": scheme.bits, "group_size": group_key(scheme), "sym": scheme.sym}


def _version() -> str:
    from autoround._version import __version__

    return __version__
