"""The ``auto_round`` format: GPTQ's tensor layout with a config of its own.

Per layer: ``qweight`` int32 [in/32*bits, out] packed along the inputs, ``qzeros`` int32
[groups, out/32*bits] packed along the outputs, ``scales`` float16 [groups, out], and the
layer's bias. Two packings differ in the zero points: ``auto_round:auto_gptq`` stores
``zero - 1`` (the GPTQ v1 convention; readers add 1) and serves symmetric grids, whose
zero is never 0; plain ``auto_round`` stores the zero point itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from autoround.core.metrics import group_count
from autoround.core.packing import BLOCK, pack_rows, unpack_rows
from autoround.errors import FormatError
from autoround.types import LEGAL_BITS, PER_CHANNEL, PER_TENSOR, Plan, QuantizedTensor, Scheme

NAME = "auto_round"
#: Zero points stored minus one.
PACKING_V1 = "auto_round:auto_gptq"
#: Zero points stored as they are.
PACKING_PLAIN = "auto_round"
PACKINGS = (PACKING_V1, PACKING_PLAIN)
#: Tensors of one quantized layer.
PARTS = ("qweight", "qzeros", "scales")


def packing_for(schemes: set[Scheme]) -> str:
    """Return the packing that holds all schemes of a model."""
    return PACKING_V1 if all(scheme.sym for scheme in schemes) else PACKING_PLAIN


def why_not(shape: tuple[int, int]) -> str:
    """Return why a weight of shape (out, in) cannot be held, or an empty text."""
    for size, what in ((shape[0], "output"), (shape[1], "input")):
        if size % BLOCK:
            return f"its {what} width {size} is not a multiple of {BLOCK}, which packing needs"
    return ""


def to_tensors(layer: QuantizedTensor, packing: str) -> dict[str, Tensor]:
    """Lay a quantized weight out as the format's tensors; meta tensors give shapes.

    layer: codes [out, in], scale and zero [out, groups] or [1, 1] for a per-tensor scheme.
    """
    bits, rows = layer.scheme.bits, layer.codes.shape[0]
    scale = layer.scale.expand(rows, -1)
    zero = layer.zero.expand(rows, -1)
    if packing == PACKING_V1:
        if zero.device.type != "meta" and not bool(zero.all()):
            raise FormatError(f"packing {PACKING_V1} cannot hold a zero point of 0")
        zero = zero - 1
    return {
        "qweight": pack_rows(layer.codes.t(), bits).contiguous(),
        "qzeros": pack_rows(zero, bits).t().contiguous(),
        "scales": scale.t().contiguous(),
    }


def from_tensors(
    tensors: Mapping[str, Tensor], scheme: Scheme, *, packing: str, name: str
) -> QuantizedTensor:
    """Read a quantized weight back from the format's tensors.

    Raises:
        FormatError: a tensor is missing, or has another dtype or shape than the layout.
    """
    qweight, qzeros, scales = (_part(tensors, part, name) for part in PARTS)
    if qweight.shape[0] % scheme.bits or qzeros.shape[1] % scheme.bits:
        raise FormatError(
            f"layer {name}: qweight {tuple(qweight.shape)} does not hold {scheme.bits}-bit values"
        )
    codes = unpack_rows(qweight, scheme.bits).t()
    zero = unpack_rows(qzeros.t(), scheme.bits)
    if packing == PACKING_V1:
        zero = zero + 1
    rows, columns = codes.shape
    effective = Scheme(scheme.bits, scheme.group_size or PER_CHANNEL, scheme.sym)
    groups = group_count((rows, columns), effective) // rows
    if zero.shape != (rows, groups) or scales.shape != (groups, rows):
        raise FormatError(
            f"layer {name}: scales {tuple(scales.shape)} and qzeros {tuple(qzeros.shape)} do "
            f"not fit a weight of {rows} x {columns} with {scheme}"
        )
    return QuantizedTensor(codes.contiguous(), scales.t().contiguous(), zero, effective)


def _part(tensors: Mapping[str, Tensor], part: str, name: str) -> Tensor:
    tensor = tensors.get(part)
    if tensor is None:
        raise FormatError(f"layer {name}: tensor {name}.{part} is missing")
    wanted = (torch.float16, torch.bfloat16) if part == "scales" else (torch.int32,)
    if tensor.dtype not in wanted or tensor.dim() != 2 or not tensor.numel():
        raise FormatError(
            f"layer {name}: {part} is {tensor.dtype} {tuple(tensor.shape)}, expected a matrix "
            f"of {' or '.join(map(str, wanted))}"
        )
    return tensor


def config(plan: Plan) -> dict[str, Any]:
    """Return the ``quantization_config`` that describes a plan to loaders."""
    layers = [layer for block in plan.blocks for layer in block.layers]
    base = most_common([layer.scheme for layer in layers if layer.scheme is not None])
    extra: dict[str, dict[str, Any]] = {}
    for layer in layers:
        if layer.scheme is None:
            extra[layer.name] = {"bits": 16, "data_type": "float"}
        elif layer.scheme != base:
            extra[layer.name] = {**_scheme_keys(layer.scheme), "data_type": "int"}
    result: dict[str, Any] = {
        "quant_method": "auto-round",
        "packing_format": plan.packing,
        **_scheme_keys(base),
        "data_type": "int",
        "block_name_to_quantize": _common_prefix(plan),
        "autoround_version": _version(),
    }
    if extra:
        result["extra_config"] = extra
    return result


def _scheme_keys(scheme: Scheme) -> dict[str, Any]:
    # A per-tensor scale is written once per output channel.
    size = PER_CHANNEL if scheme.group_size == PER_TENSOR else scheme.group_size
    return {"bits": scheme.bits, "group_size": size, "sym": scheme.sym}


def most_common(schemes: list[Scheme]) -> Scheme:
    """Return the scheme of most layers; the first one among equals."""
    return max(dict.fromkeys(schemes), key=schemes.count)


def _common_prefix(plan: Plan) -> str:
    return plan.blocks[0].name.rpartition(".")[0]


def _version() -> str:
    from autoround._version import __version__

    return __version__


def quantized_layers(
    config: Mapping[str, Any], names: Mapping[str, tuple[int, int]]
) -> dict[str, Scheme]:
    """Return the scheme of every layer that a quantization config says is quantized.

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
