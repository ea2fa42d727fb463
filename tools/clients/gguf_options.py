"""Options of the tiny models of :mod:`gguf_cases`: values of configs, by what they are for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

VOCABULARY = 512
COMMON: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 512,
    "initializer_range": 0.08,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def _rope(kind: str, **values: Any) -> dict[str, Any]:
    """Return rotary parameters, as configs hold them."""
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **values}}


YARN: dict[str, Any] = {"factor": 4.0, "original_max_position_embeddings": 128}
LLAMA3: dict[str, Any] = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
#: Options of rotary embeddings that every architecture with one is tried with.
SCALINGS: dict[str, dict[str, Any]] = {
    "theta": _rope("default", rope_theta=1e6),
    "linear": _rope("linear", factor=4.0),
    "llama3": _rope("llama3", **LLAMA3),
    "dynamic": _rope("dynamic", factor=4.0),
    "yarn": _rope("yarn", **YARN),
    "yarn, attention_factor": _rope("yarn", **YARN, attention_factor=1.5),
    "yarn, mscale": _rope("yarn", **YARN, mscale=0.7, mscale_all_dim=1.0),
    "yarn, mscale of DeepSeek": _rope("yarn", **YARN, mscale=1.0, mscale_all_dim=1.0),
    "yarn, betas": _rope("yarn", **YARN, beta_fast=20.0, beta_slow=2.0),
    "yarn, truncate": _rope("yarn", **YARN, truncate=False),
    "partial": _rope("default", partial_rotary_factor=0.5),
    "an unknown key": _rope("linear", factor=4.0, surprise=1.5),
}
EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 256}
#: A window in the layers that the class gives one, and where Qwen's have it.
WINDOW: dict[str, Any] = {"sliding_window": 32}
QWEN_WINDOW: dict[str, Any] = {
    "sliding_window": 32,
    "use_sliding_window": True,
    "max_window_layers": 1,
}


CLIP: dict[str, Any] = {
    "model_type": "clip_vision_model",
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
SIGLIP: dict[str, Any] = {**CLIP, "model_type": "siglip_vision_model", "vision_use_head": False}
INTERN: dict[str, Any] = {
    **CLIP,
    "model_type": "internvl_vision",
    "image_size": [28, 28],
    "patch_size": [14, 14],
}


def towers(kind: str, vision: Mapping[str, Any], text: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of a model with a tower for images beside its text part."""
    return {
        "text_config": {"model_type": kind, **COMMON, **text},
        "vision_config": dict(vision),
        "tie_word_embeddings": False,
        "image_token_id": VOCABULARY - 1,
        "image_token_index": VOCABULARY - 1,
    }


GPT2: dict[str, Any] = {
    "n_embd": 256,
    "n_layer": 3,
    "n_head": 8,
    "vocab_size": VOCABULARY,
    "n_positions": 512,
    "initializer_range": 0.08,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MOE: dict[str, Any] = {**EXPERTS, "head_dim": 32}
GEMMA: dict[str, Any] = {"head_dim": 32, "query_pre_attn_scalar": 32}
LONG: dict[str, Any] = _rope(
    "longrope",
    long_factor=[1.0 + 0.1 * k for k in range(16)],
    short_factor=[1.0] * 16,
    original_max_position_embeddings=64,
)
LONG_LENGTH: dict[str, Any] = {"original_max_position_embeddings": 64}
PHI3: dict[str, Any] = {"sliding_window": None, "original_max_position_embeddings": 512}
GRANITE: dict[str, Any] = {
    "attention_multiplier": 0.3,
    "embedding_multiplier": 2.0,
    "logits_scaling": 0.5,
    "residual_multiplier": 0.7,
}
DEEP: dict[str, Any] = {
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 256,
    "first_k_dense_replace": 1,
}
EXAONE = ["sliding_attention"] * 3 + ["full_attention"]
LATENT: dict[str, Any] = {
    "kv_lora_rank": 64,
    "q_lora_rank": 64,
    "qk_rope_head_dim": 32,
    "qk_nope_head_dim": 32,
    "v_head_dim": 32,
    "head_dim": 32,
    "num_key_value_heads": 8,
}


#: Scalings that full attention is tried with where layers with a window have none.
APART = ("theta", "linear", "llama3", "dynamic", "yarn", "yarn, attention_factor", "yarn, betas")


def apart(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return rotary parameters for full attention alone; layers with a window have its base."""
    full = options["rope_parameters"]
    local = {"rope_type": "default", "rope_theta": full["rope_theta"]}
    return {"rope_parameters": {"full_attention": full, "sliding_attention": local}}
