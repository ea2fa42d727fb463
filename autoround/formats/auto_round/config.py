"""The ``auto_round`` format: the tensors of GPTQ or AWQ with a config of its own.

Three packings: ``auto_round:auto_gptq`` stores ``zero - 1`` (the GPTQ v1 convention;
readers add 1) and serves symmetric grids, whose zero is never 0; ``auto_round:auto_awq`` is
AWQ's, which serving engines read asymmetric weights of 4 bits in; plain ``auto_round`` stores
the zero point itself, in GPTQ's layout, and holds the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autoround.errors import FormatError
from autoround.formats.awq.layout import AUTO_ROUND_AWQ
from autoround.formats.gptq.layout import AUTO_ROUND_V1, AUTO_ROUND_V2
from autoround.formats.merged_layers import engine_names, merges_experts
from autoround.formats.schemes import group_key, most_common
from autoround.formats.written import among_blocks, block_lists, described
from autoround.types import LEGAL_BITS, PER_CHANNEL, PER_TENSOR, OutputPlan, Plan, Scheme

#: Layouts that ``packing_format`` may name.
PACKINGS = (AUTO_ROUND_V1.name, AUTO_ROUND_V2.name, AUTO_ROUND_AWQ.name)


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


def _scheme_keys(scheme: Scheme) -> dict[str, Any]:
    return {"bits": scheme.bits, "group_size": group_key(scheme), "sym": scheme.sym}


def _version() -> str:
    from autoround._version import __version__

    return __version__


def quantized_layers(
    config: Mapping[str, Any], names: Mapping[str, tuple[int, int]]
) -> dict[str, Scheme]:
    """Return the scheme of every layer that a quantization config says is quantized.

    Args:
        config: of auto-round.
        names: candidate layers and their shapes (out, in).

    Raises:
        FormatError: the config is not of this format, or a value in it is illegal.
    """
    _check_config(config)
    blocks = config.get("block_name_to_quantize") or ""
    prefixes = blocks if isinstance(blocks, list) else str(blocks).split(",")
    extra = config.get("extra_config") or {}
    found = {}
    for name in names:
        own = extra.get(name, {})
        inside = any(name.startswith(str(prefix).strip() + ".") for prefix in prefixes)
        # extra_config also names quantized layers outside the blocks, such as the head.
        if inside or own:
            scheme = _scheme({**config, **own}, f"of layer {name}")
            if scheme is not None:
                found[name] = scheme
    return found


def _scheme(keys: Mapping[str, Any], where: str) -> Scheme | None:
    """Read a scheme; None for 16 bits or more."""
    for key in ("bits", "group_size", "sym"):
        if not isinstance(keys.get(key), int):
            raise FormatError(
                f"quantization_config: {key} {where} is {keys.get(key)!r}, not a number"
            )
    bits, size = keys["bits"], keys["group_size"]
    # auto-round writes an unquantized layer as one of 16 bits.
    if bits >= 16:
        return None
    if bits not in LEGAL_BITS:
        raise FormatError(
            f"quantization_config: bits {where} is {bits}; legal: {', '.join(map(str, LEGAL_BITS))}"
        )
    if size < 1 and size not in (PER_CHANNEL, PER_TENSOR):
        raise FormatError(
            f"quantization_config: group_size {where} is {size}; legal: 1 and more, "
            f"{PER_CHANNEL} (channel), {PER_TENSOR} (tensor)"
        )
    return Scheme(bits, size, bool(keys["sym"]))


def _check_config(config: Mapping[str, Any]) -> None:
    if config.get("quant_method") != "auto-round":
        raise FormatError(
            f"quant_method is {config.get('quant_method')!r}; this reads 'auto-round' only"
        )
    if config.get("packing_format") not in PACKINGS:
        raise FormatError(
            f"packing_format is {config.get('packing_format')!r}; legal: {', '.join(PACKINGS)}"
        )
    activations = config.get("act_bits", 16)
    if (
        config.get("data_type", "int") != "int"
        or not isinstance(activations, int)
        or activations < 16
    ):
        raise FormatError("only integer weights with 16-bit activations can be read")
    extra = config.get("extra_config") or {}
    if not isinstance(extra, Mapping) or not all(isinstance(v, Mapping) for v in extra.values()):
        raise FormatError("quantization_config.extra_config is not a table of layers")
    _scheme(config, "of the model")
