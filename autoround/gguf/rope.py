"""Rotary embeddings: where configs keep them, and what a GGUF file says of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from autoround.errors import FormatError

#: Scalings that can be written, as configs call them.
SCALINGS = ("default", "linear", "llama3", "yarn", "longrope")


def rope_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rotary parameters of a config, old or new; those of full attention.

    Raises:
        FormatError: a scaling that llama.cpp does not know.
    """
    found = config.get("rope_parameters")
    if found and "full_attention" in found:
        local = dict(found.get("sliding_attention") or {})
        if local.get("rope_theta", 10000.0) != 10000.0 or not _plain(local):
            raise FormatError(
                f"GGUF: rope_parameters of sliding attention {local}; llama.cpp takes a "
                "plain rotary embedding of base 10000 there"
            )
        found = found["full_attention"]
    if not found:
        found = dict(config.get("rope_scaling") or {})
        found.setdefault("rope_theta", config.get("rope_theta", 10000.0))
    kind = found.get("rope_type", found.get("type")) or "default"
    if kind not in SCALINGS:
        raise FormatError(f"GGUF: rope scaling {kind!r} has no place; legal: {', '.join(SCALINGS)}")
    return {**found, "rope_type": kind}


def _plain(parameters: Mapping[str, Any]) -> bool:
    return (parameters.get("rope_type") or "default") == "default"


def head_width(config: Mapping[str, Any]) -> int:
    """Return the width of one attention head."""
    heads = config.get("num_attention_heads") or config.get("n_head")
    width = config.get("hidden_size") or config.get("n_embd")
    return int(config.get("head_dim") or int(width or 0) // int(heads or 1))


def rotated_width(config: Mapping[str, Any]) -> int:
    """Return how many of a head's dimensions are rotated."""
    share = config.get("partial_rotary_factor")
    rope = config.get("rope_parameters") or {}
    share = rope.get("partial_rotary_factor", share) if isinstance(rope, Mapping) else share
    return int(head_width(config) * (1.0 if share is None else float(share)))


def rope_factors(config: Mapping[str, Any], arch: str) -> dict[str, tuple[float, ...]]:
    """Return the tensors that hold a scaling by dimension, by name; mostly none."""
    if arch == "gpt2":
        return {}
    rope = rope_of(config)
    if rope["rope_type"] == "llama3":
        return {"rope_freqs": _llama3(config, rope)}
    if rope["rope_type"] == "longrope":
        if arch != "phi3":
            raise FormatError(f"GGUF: rope scaling 'longrope' of a {arch} model has no place")
        return {
            "rope_factors_long": tuple(map(float, rope["long_factor"])),
            "rope_factors_short": tuple(map(float, rope["short_factor"])),
        }
    return {}


def _llama3(config: Mapping[str, Any], rope: Mapping[str, Any]) -> tuple[float, ...]:
    """Return the divisor of each frequency (Llama 3.1): long waves are slowed, short ones not."""
    width = rotated_width(config)
    factor = float(rope["factor"])
    low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    context = float(rope["original_max_position_embeddings"])
    found = []
    for dimension in range(0, width, 2):
        wave = 2 * math.pi * float(rope["rope_theta"]) ** (dimension / width)
        if wave < context / high:
            found.append(1.0)
        elif wave > context / low:
            found.append(factor)
        else:
            smooth = (context / wave - low) / (high - low)
            found.append(1.0 / ((1.0 - smooth) / factor + smooth))
    return tuple(found)
