"""Rotary position embeddings: their keys in configs, and their tensors in a GGUF file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from autoround.errors import FormatError

#: Scalings that can be written, as configs call them.
SCALINGS = ("default", "linear", "llama3", "yarn", "longrope")


def rope_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rotary parameters of full attention.

    Args:
        config: As transformers writes it, with ``rope_parameters`` or the legacy keys.

    Returns:
        The parameters, with ``rope_type`` one of :data:`SCALINGS`.

    Raises:
        FormatError: llama.cpp does not know the scaling.
    """
    rope = config.get("rope_parameters")
    if rope and "full_attention" in rope:
        # llama.cpp has one set of parameters a file, and a constant base for sliding windows.
        local = dict(rope.get("sliding_attention") or {})
        if local.get("rope_theta", 10000.0) != 10000.0 or not _plain(local):
            raise FormatError(
                f"GGUF: rope_parameters of sliding attention {local}; llama.cpp takes a "
                "plain rotary embedding of base 10000 there"
            )
        rope = rope["full_attention"]
    if not rope:
        # Configs of older transformers have the base beside the scaling, not in it.
        rope = dict(config.get("rope_scaling") or {})
        rope.setdefault("rope_theta", config.get("rope_theta", 10000.0))
    kind = rope.get("rope_type", rope.get("type")) or "default"
    if kind not in SCALINGS:
        raise FormatError(
            f"GGUF: rope scaling {kind!r} is not supported; legal: {', '.join(SCALINGS)}"
        )
    return {**rope, "rope_type": kind}


def _plain(parameters: Mapping[str, Any]) -> bool:
    return (parameters.get("rope_type") or "default") == "default"


def head_width(config: Mapping[str, Any]) -> int:
    """Return the width of one attention head."""
    heads = config.get("num_attention_heads") or config.get("n_head")
    width = config.get("hidden_size") or config.get("n_embd")
    return int(config.get("head_dim") or int(width or 0) // int(heads or 1))


def rotated_width(config: Mapping[str, Any]) -> int:
    """Return the number of a head's dimensions that are rotated."""
    fraction = config.get("partial_rotary_factor")
    rope = config.get("rope_parameters") or {}
    if isinstance(rope, Mapping):
        fraction = rope.get("partial_rotary_factor", fraction)
    return int(head_width(config) * (1.0 if fraction is None else float(fraction)))


def rope_factors(config: Mapping[str, Any], arch: str) -> dict[str, tuple[float, ...]]:
    """Return the tensors that scale each rotary frequency; most models have none.

    Args:
        config: As transformers writes it.
        arch: llama.cpp's name of the architecture.

    Returns:
        Divisors of the frequencies, by the tensor's name without ``.weight``.

    Raises:
        FormatError: llama.cpp does not know the scaling for this architecture.
    """
    if arch == "gpt2":
        return {}
    rope = rope_of(config)
    if rope["rope_type"] == "llama3":
        return {"rope_freqs": _llama3(config, rope)}
    if rope["rope_type"] == "longrope":
        if arch != "phi3":
            raise FormatError(f"GGUF: rope scaling 'longrope' is legal for phi3, not for {arch}")
        return {
            "rope_factors_long": tuple(map(float, rope["long_factor"])),
            "rope_factors_short": tuple(map(float, rope["short_factor"])),
        }
    return {}


def _llama3(config: Mapping[str, Any], rope: Mapping[str, Any]) -> tuple[float, ...]:
    """Return the divisor of each frequency (Llama 3.1).

    Wavelengths above context / low are divided by the factor, those below context / high stay,
    and those between are interpolated.
    """
    width = rotated_width(config)
    factor = float(rope["factor"])
    low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    context = float(rope["original_max_position_embeddings"])
    divisors = []
    for dimension in range(0, width, 2):
        wavelength = 2 * math.pi * float(rope["rope_theta"]) ** (dimension / width)
        if wavelength < context / high:
            divisors.append(1.0)
        elif wavelength > context / low:
            divisors.append(factor)
        else:
            smooth = (context / wavelength - low) / (high - low)
            divisors.append(1.0 / ((1.0 - smooth) / factor + smooth))
    return tuple(divisors)
