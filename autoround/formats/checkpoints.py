"""What a quantized checkpoint says about itself, whichever program wrote it.

AutoRound's config says which layers are quantized. GPTQ's and AWQ's leave it to rules that
programs read in their own ways; there the files decide: a layer with a ``qweight`` is
quantized, any other is not.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import torch

from autoround.errors import FormatError
from autoround.formats import layouts
from autoround.formats.auto_round import config as auto_round
from autoround.formats.compressed_tensors import config as compressed
from autoround.formats.mlx import config as mlx
from autoround.types import LEGAL_BITS, PER_CHANNEL, PER_TENSOR, Expected, Scheme

#: Values of ``quant_method`` that can be read.
METHODS = ("auto-round", "gptq", "awq", compressed.METHOD, mlx.METHOD)


class Stored(NamedTuple):
    """How one layer is held in a checkpoint."""

    scheme: Scheme
    packing: str


def method_of(config: Mapping[str, Any]) -> str:
    """Return the name of a quantization config's method; MLX's does not say its own."""
    return mlx.METHOD if mlx.is_mlx(config) else str(config.get("quant_method"))


def stored_layers(
    config: Mapping[str, Any], shapes: Mapping[str, tuple[int, int]], tensors: Collection[str]
) -> dict[str, Stored]:
    """Return how every quantized layer of a checkpoint is held.

    config: the ``quantization_config``. shapes: candidate layers, (out, in).
    tensors: names of all tensors in the files.

    Raises:
        FormatError: the config is of no format that can be read, or a value is illegal.
    """
    method = method_of(config)
    if method == mlx.METHOD:
        schemes = mlx.quantized_layers(config, shapes, tensors)
        return {n: Stored(s, layouts.MLX) for n, s in schemes.items()}
    if method == "auto-round":
        found = auto_round.quantized_layers(config, shapes)
        return {n: Stored(s, str(config["packing_format"])) for n, s in found.items()}
    if method == "gptq":
        return _gptq(config, _with_qweight(shapes, tensors), tensors)
    if method == "awq":
        version = str(config.get("version", "gemm")).lower()
        if version != "gemm":
            raise FormatError(f"AWQ version {version!r} cannot be read; legal: gemm")
        sym = not config.get("zero_point", True)
        scheme = _scheme({**config, "sym": sym}, "of the model")
        return {n: Stored(scheme, layouts.AWQ) for n in _with_qweight(shapes, tensors)}
    if method == compressed.METHOD:
        packed = [name for name in shapes if f"{name}.weight_packed" in tensors]
        read = compressed.quantized_layers(config, packed, tensors)
        return {n: Stored(s, layouts.COMPRESSED) for n, s in read.items()}
    raise FormatError(
        f"quant_method is {config.get('quant_method')!r}; legal: {', '.join(METHODS)}"
    )


def _with_qweight(shapes: Mapping[str, Any], tensors: Collection[str]) -> list[str]:
    return [name for name in shapes if f"{name}.qweight" in tensors]


def _gptq(
    config: Mapping[str, Any], names: list[str], tensors: Collection[str]
) -> dict[str, Stored]:
    version = str(config.get("checkpoint_format") or config.get("format") or "gptq")
    if version not in layouts.GPTQ:
        raise FormatError(
            f"GPTQ checkpoint_format {version!r} cannot be read; legal: {', '.join(layouts.GPTQ)}"
        )
    # Files without g_idx have the very layout of AutoRound's packings.
    bare = auto_round.PACKING_V1 if layouts.GPTQ[version] == 1 else auto_round.PACKING_PLAIN
    rules = config.get("dynamic") or {}
    if not isinstance(rules, Mapping):
        raise FormatError("quantization_config.dynamic is not a table of rules")
    found = {}
    for name in names:
        scheme = _scheme({**config, **_rule(rules, name)}, f"of layer {name}")
        found[name] = Stored(scheme, version if f"{name}.g_idx" in tensors else bare)
    return found


def _rule(rules: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return what the first rule that matches a layer sets."""
    for rule, values in rules.items():
        try:
            matched = re.match(rule.removeprefix("+:"), name) is not None
        except re.error as error:
            raise FormatError(f"dynamic rule {rule!r} is not a regex: {error}") from None
        if not rule.startswith("-:") and matched:
            if not isinstance(values, Mapping):
                raise FormatError(f"dynamic rule {rule!r} is not a table of keys")
            return values
    return {}


def _scheme(keys: Mapping[str, Any], where: str) -> Scheme:
    bits = keys.get("bits", keys.get("w_bit"))
    size = keys.get("group_size", keys.get("q_group_size"))
    if not isinstance(bits, int) or bits not in LEGAL_BITS:
        raise FormatError(
            f"quantization_config: bits {where} is {bits!r}; legal: "
            f"{', '.join(map(str, LEGAL_BITS))}"
        )
    if not isinstance(size, int) or (size < 1 and size not in (PER_CHANNEL, PER_TENSOR)):
        raise FormatError(
            f"quantization_config: group_size {where} is {size!r}; legal: 1 and more, "
            f"{PER_CHANNEL} (channel)"
        )
    return Scheme(bits, size, bool(keys.get("sym", True)))


Header = tuple[tuple[int, ...], torch.dtype]


def packed_shape(name: str, stored: Stored, headers: Mapping[str, Header]) -> tuple[int, int]:
    """Return (out, in) of a packed layer, by the headers of its tensors.

    Raises:
        FormatError: a tensor is missing or does not fit the others.
    """
    scheme, packing = stored
    reason = layouts.illegal(scheme, packing)
    if reason:
        raise FormatError(f"layer {name}: {packing} with {scheme}: {reason}")
    held = {p: headers[f"{name}.{p}"] for p in layouts.PARTS if f"{name}.{p}" in headers}
    empty = {p: torch.empty(s, dtype=d, device="meta") for p, (s, d) in held.items()}
    layer = layouts.from_tensors(empty, scheme, packing=packing, name=name)
    rows, columns = layer.codes.shape
    order = held.get("g_idx", held.get("weight_g_idx"))
    if order is not None and order != ((columns,), torch.int32):
        raise FormatError(
            f"layer {name}: g_idx is {order[1]} {order[0]}, expected torch.int32 ({columns},)"
        )
    return int(rows), int(columns)


def check_layers(
    stored: Mapping[str, Stored], headers: Mapping[str, Header], *, expected: Expected
) -> None:
    """Hold the tensors of every layer against its layout and the model, by headers alone.

    stored: the quantized layers. expected: what the model would have.

    Raises:
        FormatError: with the layer and what is wrong with it.
    """
    shapes, tied = expected.shapes, expected.tied
    for name, held in stored.items():
        found = packed_shape(name, held, headers)
        if name in shapes and found != shapes[name]:
            raise FormatError(
                f"layer {name}: its codes are {found[0]} x {found[1]}, the model's weight is "
                f"{shapes[name][0]} x {shapes[name][1]}"
            )
    for name in shapes:
        own = f"{name}.weight"
        same = {own, tied.get(own, own), *(n for n, first in tied.items() if first == own)}
        names = same | {n.removeprefix(expected.prefix) for n in same}
        if name not in stored and not any(n in headers for n in names):
            raise FormatError(f"layer {name}: the files hold neither its codes nor its weight")
