"""Entries of a GGUF header that describe a model: shape, attention, file type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autoround.gguf.arch import block_count
from autoround.gguf.architectures import Architecture, architecture_of, text_part
from autoround.gguf.fields import Field
from autoround.gguf.rope import head_width, rotary
from autoround.gguf.windows import window_plan

#: Numbers of file types in llama.cpp.
FILE_TYPES = {
    "f32": 0,
    "f16": 1,
    "q4_0": 2,
    "q4_1": 3,
    "q8_0": 7,
    "q5_0": 8,
    "q5_1": 9,
    "q2_k_s": 21,
    "q3_k_s": 11,
    "q3_k_m": 12,
    "q3_k_l": 13,
    "q4_k_s": 14,
    "q4_k_m": 15,
    "q5_k_s": 16,
    "q5_k_m": 17,
    "q6_k": 18,
}
#: Keys for the number of experts of a layer.
_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts")
#: Version of the block layouts.
QUANTIZATION_VERSION = 2


def metadata(config: Mapping[str, Any], *, name: str, file_type: str) -> list[Field]:
    """Return the entries that describe a model, without its tokenizer.

    Args:
        config: As transformers writes it.
        name: Name of the model.
        file_type: One of :data:`FILE_TYPES`.

    Raises:
        FormatError: The architecture or its rotary embedding cannot be expressed.
    """
    arch, config = architecture_of(config), text_part(config)
    general = [
        Field("general.type", "model", "text"),
        Field("general.name", name, "text"),
        Field("general.file_type", FILE_TYPES[file_type], "u32"),
        Field("general.quantization_version", QUANTIZATION_VERSION, "u32"),
    ]
    # GPT-2 has learned positions, no grouped heads, and other keys in its config.
    if arch.name == "gpt2":
        specific = _gpt2(config)
    else:
        specific = [*_shape(config), *rotary(config, arch).fields]
    specific += _experts(config) + _attention(config, arch) + _specific(config, arch)
    return general + [Field(f"{arch.name}.{key}", value, kind) for key, value, kind in specific]


def _gpt2(config: Mapping[str, Any]) -> list[Field]:
    width = int(config["n_embd"])
    return [
        Field("context_length", int(config["n_positions"]), "u32"),
        Field("embedding_length", width, "u32"),
        Field("feed_forward_length", int(config.get("n_inner") or 4 * width), "u32"),
        Field("block_count", block_count(config), "u32"),
        Field("attention.head_count", int(config["n_head"]), "u32"),
        Field("attention.layer_norm_epsilon", float(config["layer_norm_epsilon"]), "f32"),
        Field("vocab_size", int(config["vocab_size"]), "u32"),
    ]


def _shape(config: Mapping[str, Any]) -> list[Field]:
    heads = int(config["num_attention_heads"])
    groups = int(config.get("num_key_value_heads") or heads)
    key = value = head_width(config)
    if config.get("qk_nope_head_dim"):
        # A latent that is shared by heads: each has a key and a value of its own behind it.
        groups, value = heads, int(config["v_head_dim"])
        key = int(config["qk_nope_head_dim"]) + int(config["qk_rope_head_dim"])
    return [
        Field("context_length", int(config["max_position_embeddings"]), "u32"),
        Field("embedding_length", int(config["hidden_size"]), "u32"),
        Field("feed_forward_length", int(config["intermediate_size"]), "u32"),
        Field("block_count", block_count(config), "u32"),
        Field("attention.head_count", heads, "u32"),
        Field("attention.head_count_kv", groups, "u32"),
        Field("attention.key_length", key, "u32"),
        Field("attention.value_length", value, "u32"),
        *_epsilon(config),
        Field("vocab_size", int(config["vocab_size"]), "u32"),
    ]


def _epsilon(config: Mapping[str, Any]) -> list[Field]:
    """Return the epsilon of norms: of RMS, or of those that subtract the mean, too."""
    if config.get("rms_norm_eps") is not None:
        return [Field("attention.layer_norm_rms_epsilon", float(config["rms_norm_eps"]), "f32")]
    for key in ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps"):
        if config.get(key) is not None:
            return [Field("attention.layer_norm_epsilon", float(config[key]), "f32")]
    return []


def _experts(config: Mapping[str, Any]) -> list[Field]:
    count = next((config[key] for key in _COUNTS if config.get(key)), 0)
    fields = []
    if count and config.get("num_experts_per_tok"):
        fields = [
            Field("expert_count", int(count), "u32"),
            Field("expert_used_count", int(config["num_experts_per_tok"]), "u32"),
        ]
    if config.get("moe_intermediate_size"):
        width = int(config["moe_intermediate_size"])
        fields.append(Field("expert_feed_forward_length", width, "u32"))
        if config.get("moe_num_shared_experts"):
            shared = width * int(config["moe_num_shared_experts"])
            fields.append(Field("expert_shared_feed_forward_length", shared, "u32"))
    if config.get("shared_expert_intermediate_size"):
        width = int(config["shared_expert_intermediate_size"])
        fields.append(Field("expert_shared_feed_forward_length", width, "u32"))
    return fields


def _specific(config: Mapping[str, Any], arch: Architecture) -> list[Field]:
    """Return the entries that the table of architectures has for this one."""
    cast = {"u32": int, "f32": float, "bool": bool}
    return [
        *arch.constants,
        *(
            Field(name, cast[kind](config[key]), kind)
            for key, name, kind in arch.fields
            if config.get(key) is not None
        ),
    ]


def _attention(config: Mapping[str, Any], arch: Architecture) -> list[Field]:
    fields = []
    for key, name in (
        ("attn_logit_softcapping", "attn_logit_softcapping"),
        ("final_logit_softcapping", "final_logit_softcapping"),
    ):
        if config.get(key):
            fields.append(Field(name, float(config[key]), "f32"))
    return fields + window_plan(config, arch).fields
