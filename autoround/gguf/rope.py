"""Rotary position embeddings: from the keys of a config to what llama.cpp reads of them.

A key that is not in the table below is refused, so that none is dropped in silence. What
llama.cpp has no key for goes into a tensor that divides each frequency, for the architectures that
read one; elsewhere it is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from autoround.errors import FormatError
from autoround.gguf.architectures import Architecture
from autoround.gguf.fields import Field

#: The keys that decide each scaling, as configs call them.
SCALINGS: Mapping[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": (
        *("factor", "original_max_position_embeddings", "attention_factor", "beta_fast"),
        *("beta_slow", "mscale", "mscale_all_dim", "truncate"),
    ),
    "longrope": (
        *("factor", "original_max_position_embeddings", "attention_factor"),
        *("short_factor", "long_factor"),
    ),
}
#: Keys of every scaling.
COMMON = ("rope_type", "type", "rope_theta", "partial_rotary_factor")
#: Keys that transformers reads with some scaling only, and passes over with the others.
KNOWN = frozenset(COMMON).union(*SCALINGS.values())
_BETAS = (32.0, 1.0)


class Rotary(NamedTuple):
    """What a file says of a rotary embedding.

    fields: entries below the architecture's name. tensors: divisors of the frequencies, by name
    without ``.weight``. notes: where llama.cpp differs, for the plan.
    """

    fields: list[Field]
    tensors: dict[str, tuple[float, ...]]
    notes: list[str]


def rotary(config: Mapping[str, Any], arch: Architecture) -> Rotary:
    """Return what a file says of a model's rotary embedding.

    Args:
        config: As transformers writes it.
        arch: What llama.cpp computes.

    Raises:
        FormatError: llama.cpp does not read what the model would need.
    """
    rope = rope_of(config)
    width = rotated_width(config)
    if width != head_width(config) and not arch.partial:
        raise FormatError(
            f"GGUF: partial_rotary_factor turns {width} of {head_width(config)} dimensions of a "
            f"head in a {arch.name} model; llama.cpp turns all of them"
        )
    fields = [
        Field("rope.dimension_count", width, "u32"),
        Field("rope.freq_base", float(rope["rope_theta"]), "f32"),
    ]
    fields += _local_base(config, arch)
    write = {"linear": _linear, "llama3": _llama3, "yarn": _yarn, "longrope": _longrope}.get(
        rope["rope_type"]
    )
    scaled = Rotary([], {}, []) if write is None else write(config, rope, arch)
    return Rotary(fields + scaled.fields, scaled.tensors, scaled.notes)


def rope_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rotary parameters of full attention.

    Args:
        config: As transformers writes it, with ``rope_parameters`` or the legacy keys.

    Returns:
        The parameters that decide anything, with ``rope_type`` one of :data:`SCALINGS` and
        ``rope_theta``.

    Raises:
        FormatError: A scaling, or a key of it, is not known.
    """
    rope = config.get("rope_parameters")
    if rope and "full_attention" in rope:
        rope = _of_full_attention(rope)
    if not rope:
        # Configs of older transformers have the base beside the scaling, not in it.
        rope = dict(config.get("rope_scaling") or {})
    return _check_keys({"rope_theta": config.get("rope_theta") or 10000.0, **rope}, config)


def _of_full_attention(rope: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of full attention, where kinds of layers have their own."""
    outer = {key: value for key, value in rope.items() if not isinstance(value, Mapping)}
    full = {k: v for k, v in rope["full_attention"].items() if k != "truncate"}
    # Beside the kinds, transformers reads nothing but this key, and reads it nowhere else.
    unknown = {key: outer[key] for key in outer if key not in KNOWN or key == "truncate"}
    return {**unknown, **full}


def _check_keys(rope: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    kind = rope.get("rope_type", rope.get("type")) or "default"
    if kind not in SCALINGS:
        raise FormatError(
            f"GGUF: rope scaling {kind!r} is not supported; legal: {', '.join(SCALINGS)}"
        )
    for key in sorted(rope.keys() - KNOWN):
        if rope[key] is not None:
            raise FormatError(
                f"GGUF: {key}={rope[key]!r} of the rope scaling {kind!r} is not known, so that it "
                f"cannot be told whether llama.cpp computes it; known: {', '.join(sorted(KNOWN))}"
            )
    read = {k: rope[k] for k in (*COMMON, *SCALINGS[kind]) if rope.get(k) is not None}
    if "original_max_position_embeddings" in SCALINGS[kind]:
        # Phi-3 has it beside the scaling; the last resort is that of transformers.
        read.setdefault(
            "original_max_position_embeddings",
            config.get("original_max_position_embeddings") or config.get("max_position_embeddings"),
        )
    if kind in ("yarn", "longrope") and "factor" not in read:
        original = float(read["original_max_position_embeddings"])
        read["factor"] = float(config["max_position_embeddings"]) / original
    return {**read, "rope_type": kind}


def _local_base(config: Mapping[str, Any], arch: Architecture) -> list[Field]:
    """Return the entry for the base of layers with a window, where it is another.

    Raises:
        FormatError: Those layers scale otherwise than llama.cpp does.
    """
    rope = config.get("rope_parameters") or {}
    local = rope.get("sliding_attention") if "full_attention" in rope else None
    if local is None:
        return []
    full = rope["full_attention"]
    plain = (local.get("rope_type") or "default") == "default" and set(local) <= set(COMMON)
    base = float(local.get("rope_theta") or 10000.0)
    fits = {
        "own": plain,
        "unscaled": plain and base == float(full.get("rope_theta") or 10000.0),
        "same": local == full,
    }[arch.local]
    if not fits:
        what = {
            "own": "takes a plain rotary embedding there",
            "unscaled": "takes that of the other layers there, without scaling",
            "same": "has one for all layers",
        }[arch.local]
        raise FormatError(
            f"GGUF: rope_parameters of sliding attention {local} in a {arch.name} model; "
            f"llama.cpp {what}"
        )
    return [Field("rope.freq_base_swa", base, "f32")] if arch.local == "own" else []


def head_width(config: Mapping[str, Any]) -> int:
    """Return the width of one attention head, or of the part that turns where it is one of two."""
    if config.get("qk_rope_head_dim"):
        return int(config["qk_rope_head_dim"])
    heads = config.get("num_attention_heads") or config.get("n_head")
    width = config.get("hidden_size") or config.get("n_embd")
    return int(config.get("head_dim") or int(width or 0) // int(heads or 1))


def rotated_width(config: Mapping[str, Any]) -> int:
    """Return the number of a head's dimensions that are rotated."""
    fraction = config.get("partial_rotary_factor")
    rope = config.get("rope_parameters") or {}
    if isinstance(rope, Mapping):
        rope = rope.get("full_attention") or rope
        fraction = rope.get("partial_rotary_factor", fraction)
    return int(head_width(config) * (1.0 if fraction is None else float(fraction)))


def _linear(config: Mapping[str, Any], rope: Mapping[str, Any], arch: Architecture) -> Rotary:
    if config.get("qk_rope_head_dim"):
        # It would take the factor for YaRN's, and scale attention by it.
        raise FormatError(
            f"GGUF: rope scaling 'linear' of a {arch.name} model is not computed by llama.cpp"
        )
    return Rotary(
        [
            Field("rope.scaling.type", "linear", "text"),
            Field("rope.scaling.factor", float(rope["factor"]), "f32"),
        ],
        {},
        [],
    )


def _frequency_tensor(arch: Architecture, divisors: tuple[float, ...], why: str) -> dict[str, Any]:
    """Return the tensor that divides frequencies.

    Raises:
        FormatError: llama.cpp does not read it for this architecture.
    """
    if not arch.frequencies:
        raise FormatError(f"GGUF: {why} of a {arch.name} model is not computed by llama.cpp")
    return {"rope_freqs": divisors}


def _llama3(config: Mapping[str, Any], rope: Mapping[str, Any], arch: Architecture) -> Rotary:
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
    return Rotary([], _frequency_tensor(arch, tuple(divisors), "rope scaling 'llama3'"), [])


def _yarn(config: Mapping[str, Any], rope: Mapping[str, Any], arch: Architecture) -> Rotary:
    factor = float(rope["factor"])
    wanted = _yarn_attention(rope)
    betas = (float(rope.get("beta_fast") or _BETAS[0]), float(rope.get("beta_slow") or _BETAS[1]))
    if betas != _BETAS or not rope.get("truncate", True):
        # llama.cpp reads no such key for most architectures, and has none for the truncation.
        why = "rope scaling 'yarn' with other beta_fast or beta_slow than 32 and 1, or truncate off"
        tensors = _frequency_tensor(arch, _yarn_divisors(config, rope, betas), why)
        return Rotary([Field("rope.scaling.attn_factor", wanted, "f32")], tensors, [])
    fields = [
        Field("rope.scaling.type", "yarn", "text"),
        Field("rope.scaling.factor", factor, "f32"),
        Field(
            "rope.scaling.original_context_length",
            int(rope["original_max_position_embeddings"]),
            "u32",
        ),
    ]
    if config.get("qk_rope_head_dim") and factor > 1:
        return Rotary([*fields, *_latent_yarn(rope, wanted)], {}, [])
    # It multiplies what llama.cpp makes of the factor by itself.
    ratio = wanted / (1.0 + 0.1 * math.log(factor))
    if abs(ratio - 1.0) > 1e-6:
        fields.append(Field("rope.scaling.attn_factor", ratio, "f32"))
    return Rotary(fields, {}, [])


def _latent_yarn(rope: Mapping[str, Any], wanted: float) -> list[Field]:
    """Return the entries for attention with a latent, whose softmax llama.cpp scales, too.

    It multiplies logits by (attn_factor * (1 + 0.1 * multiplier * ln factor))^2, queries and
    keys by attn_factor; the model has the square of YaRN's scale with ``mscale_all_dim``. The two
    entries are those that make both equal.
    """
    growth = 0.1 * math.log(float(rope["factor"]))
    softmax = 1.0 + growth * float(rope.get("mscale_all_dim") or 0.0)
    multiplier = (softmax / wanted - 1.0) / growth
    if abs(multiplier) < 1e-6:
        # Without the multiplier it has the scale of the factor in attn_factor by itself.
        return [Field("rope.scaling.attn_factor", wanted / (1.0 + growth), "f32")]
    return [
        Field("rope.scaling.attn_factor", wanted, "f32"),
        # A tenth of it is what files of this architecture hold.
        Field("rope.scaling.yarn_log_multiplier", 0.1 * multiplier, "f32"),
    ]


def _yarn_attention(rope: Mapping[str, Any]) -> float:
    """Return YaRN's factor on queries and keys."""

    def scale(weight: float) -> float:
        factor = float(rope["factor"])
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    if rope.get("attention_factor") is not None:
        return float(rope["attention_factor"])
    if rope.get("mscale") and rope.get("mscale_all_dim"):
        return scale(float(rope["mscale"])) / scale(float(rope["mscale_all_dim"]))
    return scale(1.0)


def _yarn_divisors(
    config: Mapping[str, Any], rope: Mapping[str, Any], betas: tuple[float, float]
) -> tuple[float, ...]:
    """Return the divisor of each frequency: 1 where waves are short, the factor where long."""
    width, factor, base = rotated_width(config), float(rope["factor"]), float(rope["rope_theta"])
    context = float(rope["original_max_position_embeddings"])
    # The dimension whose wave turns so often within the original context.
    low, high = (
        width * math.log(context / (turns * 2 * math.pi)) / (2 * math.log(base)) for turns in betas
    )
    if rope.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, width - 1)
    span = (high - low) or 0.001
    shares = (min(max((i - low) / span, 0.0), 1.0) for i in range(width // 2))
    return tuple(1.0 / (share / factor + 1.0 - share) for share in shares)


def _longrope(config: Mapping[str, Any], rope: Mapping[str, Any], arch: Architecture) -> Rotary:
    if not arch.long_factors:
        raise FormatError(
            f"GGUF: rope scaling 'longrope' of a {arch.name} model is not computed by llama.cpp"
        )
    original = int(rope["original_max_position_embeddings"])
    factor = float(rope["factor"])
    attention = rope.get("attention_factor")
    if attention is None:
        attention = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    fields = [
        Field("rope.scaling.type", "longrope", "text"),
        Field("rope.scaling.original_context_length", original, "u32"),
        Field("rope.scaling.attn_factor", float(attention), "f32"),
    ]
    tensors = {
        "rope_factors_long": tuple(map(float, rope["long_factor"])),
        "rope_factors_short": tuple(map(float, rope["short_factor"])),
    }
    note = (
        f"llama.cpp takes the long factors of this model's LongRoPE for every text when its "
        f"context is set above {original} tokens, and the short ones for every text below; "
        "transformers chooses by the length of each text"
    )
    return Rotary(fields, tensors, [note])
