"""The tiny models of :mod:`gguf_archs`: each architecture, plain and with every option it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

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
#: Where distributions are compared: before and far beyond windows and original lengths.
POSITIONS = (0, 1, 5, 14, 29, 40, 63, 80, 101, 127, 140, 159)


class Case(NamedTuple):
    """One model.

    name: architecture, and the option after a comma. config: class of transformers. values: of the
    config. wanted: that it is written, that the plan refuses it, or either. positions: where
    distributions are compared.
    """

    name: str
    config: str
    values: Mapping[str, Any]
    wanted: Literal["written", "refused", "either"] = "written"
    positions: Sequence[int] = POSITIONS


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
#: An option that no plan may let pass.
NEVER = ("an unknown key",)
EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 256}
#: A window in the layers that the class gives one, and where Qwen's have it.
WINDOW: dict[str, Any] = {"sliding_window": 32}
QWEN_WINDOW: dict[str, Any] = {
    "sliding_window": 32,
    "use_sliding_window": True,
    "max_window_layers": 1,
}


def _family(
    name: str,
    config: str,
    *options: tuple[str, Mapping[str, Any]],
    scalings: bool = True,
    **values: Any,
) -> list[Case]:
    """Return an architecture's plain case, one with each option, and one with each scaling."""
    plain = {**COMMON, **values}
    more = [*options, *(SCALINGS.items() if scalings else ())]
    return [
        Case(name, config, plain, "written"),
        *(
            Case(f"{name}, {key}", config, {**plain, **v}, "refused" if key in NEVER else "either")
            for key, v in more
        ),
    ]


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


def _towers(kind: str, vision: Mapping[str, Any], **text: Any) -> dict[str, Any]:
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
#: llama.cpp has the long factors at every length, so that only long texts agree.
BEYOND = tuple(p for p in POSITIONS if p >= 64)
CASES: list[Case] = [
    *_family(
        "llama",
        "LlamaConfig",
        ("tied, wide heads", {"head_dim": 64, "tie_word_embeddings": True}),
        ("biases", {"attention_bias": True, "mlp_bias": True}),
    ),
    *_family("mistral", "MistralConfig", ("window", WINDOW), sliding_window=None),
    *_family(
        "mixtral",
        "MixtralConfig",
        ("window", WINDOW),
        num_local_experts=4,
        num_experts_per_tok=2,
        sliding_window=None,
        head_dim=32,
    ),
    *_family("qwen2", "Qwen2Config", ("window", QWEN_WINDOW)),
    *_family(
        "qwen3",
        "Qwen3Config",
        ("window", QWEN_WINDOW),
        ("biases", {"attention_bias": True}),
        head_dim=32,
    ),
    *_family(
        "qwen2_moe",
        "Qwen2MoeConfig",
        ("window", QWEN_WINDOW),
        ("normed", {"norm_topk_prob": True}),
        ("every second layer", {"decoder_sparse_step": 2}),
        **EXPERTS,
        shared_expert_intermediate_size=512,
        norm_topk_prob=False,
    ),
    *_family(
        "qwen3_moe",
        "Qwen3MoeConfig",
        ("window", QWEN_WINDOW),
        ("not normed", {"norm_topk_prob": False}),
        **MOE,
        norm_topk_prob=True,
    ),
    *_family("gemma", "GemmaConfig", head_dim=32),
    *_family(
        "gemma2",
        "Gemma2Config",
        ("softcaps", {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 1.0}),
        ("no softcaps", {"attn_logit_softcapping": None, "final_logit_softcapping": None}),
        ("no window", {"sliding_window": None}),
        ("another scale", {"query_pre_attn_scalar": 64}),
        ("other layers", {"layer_types": ["full_attention"] * 3}),
        **GEMMA,
        sliding_window=32,
    ),
    *_family(
        "gemma3_text",
        "Gemma3TextConfig",
        ("softcap", {"final_logit_softcapping": 1.0}),
        (
            "local base",
            {
                "rope_parameters": {
                    "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 50000.0},
                }
            },
        ),
        ("other layers", {"layer_types": ["full_attention"] * 7}),
        scalings=False,
        **GEMMA,
        sliding_window=32,
        num_hidden_layers=7,
    ),
    *_family("phi3", "Phi3Config", ("window", WINDOW), **PHI3),
    Case(
        "phi3, long rope",
        "Phi3Config",
        {**COMMON, **PHI3, **LONG, **LONG_LENGTH},
        "written",
        BEYOND,
    ),
    Case("gpt2", "GPT2Config", GPT2),
    Case("gpt2, scales", "GPT2Config", {**GPT2, "scale_attn_by_inverse_layer_idx": True}, "either"),
    *_family("olmo", "OlmoConfig", ("clip", {"clip_qkv": 0.5})),
    *_family("olmo2", "Olmo2Config"),
    *_family("olmo3", "Olmo3Config", num_hidden_layers=4, sliding_window=32),
    *_family(
        "olmoe",
        "OlmoeConfig",
        ("normed", {"norm_topk_prob": True}),
        ("grouped", {"num_key_value_heads": 2}),
        num_experts=4,
        num_experts_per_tok=2,
        intermediate_size=256,
        num_key_value_heads=8,
    ),
    *_family(
        "granite",
        "GraniteConfig",
        ("multipliers", GRANITE),
        ("biases", {"attention_bias": True, "mlp_bias": True}),
        attention_multiplier=0.2,
    ),
    *_family(
        "granitemoe",
        "GraniteMoeConfig",
        ("multipliers", GRANITE),
        num_local_experts=4,
        num_experts_per_tok=2,
        attention_multiplier=0.2,
    ),
    *_family(
        "smollm3",
        "SmolLM3Config",
        ("window", {"sliding_window": 32, "use_sliding_window": True}),
        ("other turns", {"no_rope_layers": [1] * 5}),
        num_hidden_layers=5,
    ),
    *_family("arcee", "ArceeConfig", ("biases", {"attention_bias": True})),
    *_family("starcoder2", "Starcoder2Config", ("window", WINDOW), sliding_window=None),
    *_family(
        "stablelm",
        "StableLmConfig",
        ("parallel", {"use_parallel_residual": True}),
        ("biases", {"use_qkv_bias": True}),
        ("norms of heads", {"qk_layernorm": True}),
    ),
    *_family("phi", "PhiConfig", ("norms of heads", {"qk_layernorm": True})),
    *_family(
        "gpt_neox",
        "GPTNeoXConfig",
        ("one after the other", {"use_parallel_residual": False}),
        ("no bias", {"attention_bias": False}),
        num_key_value_heads=8,
    ),
    *_family("nemotron", "NemotronConfig", ("biases", {"attention_bias": True, "mlp_bias": True})),
    *_family(
        "cohere",
        "CohereConfig",
        ("norms of heads", {"use_qk_norm": True}),
        ("scale", {"logit_scale": 0.25}),
        ("untied", {"tie_word_embeddings": False}),
    ),
    *_family(
        "cohere2",
        "Cohere2Config",
        ("scale", {"logit_scale": 0.25}),
        ("no window", {"layer_types": ["full_attention"] * 4}),
        num_hidden_layers=4,
        sliding_window=32,
        head_dim=32,
    ),
    *_family("glm", "GlmConfig", head_dim=32),
    *_family("glm4", "Glm4Config", head_dim=32),
    *_family(
        "glm4_moe",
        "Glm4MoeConfig",
        ("norms of heads", {"use_qk_norm": True}),
        ("not normed, scaled", {"norm_topk_prob": False, "routed_scaling_factor": 1.7}),
        ("groups", {"n_group": 2, "topk_group": 1}),
        **DEEP,
        head_dim=32,
    ),
    *_family(
        "exaone4",
        "Exaone4Config",
        ("window", {"sliding_window": 32, "layer_types": EXAONE}),
        (
            "window, 64 layers",
            {"sliding_window": 32, "layer_types": EXAONE * 16, "num_hidden_layers": 64},
        ),
        num_hidden_layers=4,
        sliding_window=None,
        layer_types=["full_attention"] * 4,
        head_dim=32,
    ),
    *_family("seed_oss", "SeedOssConfig", head_dim=32),
    *_family("ernie4_5", "Ernie4_5Config", ("biases", {"use_bias": True}), head_dim=32),
    *_family(
        "ernie4_5_moe",
        "Ernie4_5_MoeConfig",
        ("no shared", {"moe_num_shared_experts": 0}),
        ("later", {"moe_layer_start_index": 2}),
        moe_num_experts=4,
        moe_k=2,
        moe_num_shared_experts=1,
        moe_intermediate_size=256,
        moe_layer_end_index=2,
    ),
    *_family("hunyuan_v1_dense", "HunYuanDenseV1Config", head_dim=32),
    *_family(
        "dots1",
        "Dots1Config",
        ("normed, scaled", {"norm_topk_prob": True, "routed_scaling_factor": 1.7}),
        ("window", WINDOW),
        ("grouped", {"num_key_value_heads": 2}),
        **DEEP,
        head_dim=32,
        num_key_value_heads=8,
    ),
    *_family(
        "deepseek_v2",
        "DeepseekV2Config",
        ("no query latent", {"q_lora_rank": None}),
        ("no query latent, 27 layers", {"q_lora_rank": None, "num_hidden_layers": 27}),
        ("scaled", {"routed_scaling_factor": 1.7}),
        ("normed", {"norm_topk_prob": True}),
        ("groups", {"topk_method": "group_limited_greedy", "n_group": 2, "topk_group": 1}),
        **DEEP,
        **LATENT,
    ),
    *_family(
        "deepseek_v3",
        "DeepseekV3Config",
        ("no query latent", {"q_lora_rank": None}),
        ("not normed, scaled", {"norm_topk_prob": False, "routed_scaling_factor": 1.7}),
        ("no groups", {"n_group": 1, "topk_group": 1}),
        ("halves", {"rope_interleave": False}),
        **{**DEEP, "n_routed_experts": 8},
        **LATENT,
        n_group=4,
        topk_group=2,
    ),
    Case("llava (text part)", "LlavaConfig", _towers("llama", CLIP), "written"),
    Case(
        "gemma3 (text part)",
        "Gemma3Config",
        _towers("gemma3_text", SIGLIP, num_hidden_layers=6, **GEMMA, sliding_window=32),
        "written",
    ),
    Case(
        "mistral3 (text part)",
        "Mistral3Config",
        _towers("mistral", {**CLIP, "model_type": "pixtral", "head_dim": 32}, sliding_window=None),
        "written",
    ),
    Case("internvl (text part)", "InternVLConfig", _towers("qwen2", INTERN), "written"),
    Case("qwen2_vl (text part)", "Qwen2VLConfig", {"text_config": COMMON}, "either"),
]
