"""The tiny models of :mod:`gguf_archs`: each architecture, plain and with every option it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from gguf_options import (
    APART,
    CLIP,
    COMMON,
    DEEP,
    EXAONE,
    EXPERTS,
    GEMMA,
    GPT2,
    GRANITE,
    INTERN,
    LATENT,
    LONG,
    LONG_LENGTH,
    MOE,
    PHI3,
    QWEN_WINDOW,
    SCALINGS,
    SIGLIP,
    WINDOW,
    apart,
    towers,
)

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


#: An option that no plan may let pass.
NEVER = ("an unknown key",)


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
    *_family(
        "olmo3",
        "Olmo3Config",
        *((key, apart(SCALINGS[key])) for key in APART),
        ("an unknown key", apart(SCALINGS["an unknown key"])),
        scalings=False,
        num_hidden_layers=4,
        sliding_window=32,
    ),
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
        # At its default of 1/16 the distributions of random weights are nearly flat.
        logit_scale=1.0,
    ),
    *_family(
        "cohere2",
        "Cohere2Config",
        ("scale", {"logit_scale": 0.25}),
        ("no window", {"layer_types": ["full_attention"] * 4}),
        num_hidden_layers=4,
        sliding_window=32,
        head_dim=32,
        logit_scale=1.0,
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
    Case("llava (text part)", "LlavaConfig", towers("llama", CLIP, {}), "written"),
    Case(
        "gemma3 (text part)",
        "Gemma3Config",
        towers("gemma3_text", SIGLIP, {"num_hidden_layers": 6, **GEMMA, "sliding_window": 32}),
        "written",
    ),
    Case(
        "mistral3 (text part)",
        "Mistral3Config",
        towers(
            "mistral",
            {**CLIP, "model_type": "pixtral", "head_dim": 32},
            {"sliding_window": None},
        ),
        "written",
    ),
    Case("internvl (text part)", "InternVLConfig", towers("qwen2", INTERN, {}), "written"),
    Case("qwen2_vl (text part)", "Qwen2VLConfig", {"text_config": COMMON}, "either"),
]
