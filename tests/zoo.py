"""Every family of models that is checked, as tiny configs of transformers; nothing is downloaded.

A model of random weights is made from each, in a second or two. Which of them go through, and how,
is what docs/models.md says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .tiny import COMMON, HIDDEN, KINDS, TOKENS, VOCAB

#: The token that stands for a piece of an image in the tiny models with a vision tower.
IMAGE = 100
TEXT: Mapping[str, Any] = {**COMMON, "head_dim": 16}
NO_GROUPS = {k: v for k, v in COMMON.items() if k != "num_key_value_heads"}


@dataclass(frozen=True)
class Family:
    """One family.

    kind: text, moe or vision. options: of its config. examples: published models of it.
    """

    name: str
    kind: str
    options: Mapping[str, Any]
    examples: str
    model_type: str = ""

    @property
    def type(self) -> str:
        """transformers' name of its config."""
        return self.model_type or self.name


def _moe(**more: Any) -> dict[str, Any]:
    return {**TEXT, "num_experts_per_tok": 2, "moe_intermediate_size": 32, **more}


def _vision(kind: str, **more: Any) -> dict[str, Any]:
    return {
        "model_type": kind,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
        **more,
    }


def _text(kind: str, **more: Any) -> dict[str, Any]:
    return {"model_type": kind, **TEXT, **more}


def _composite(text: dict[str, Any], vision: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "text_config": text,
        "vision_config": vision,
        "image_token_id": IMAGE,
        "image_token_index": IMAGE,
        "tie_word_embeddings": False,
        **more,
    }


#: Multi-dimensional rotary embedding of Qwen's models with vision.
MROPE = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
_QWEN_VISION = {
    "depth": 2,
    "embed_dim": 32,
    "hidden_size": HIDDEN,
    "num_heads": 2,
    "mlp_ratio": 2,
    "intermediate_size": 64,
    "out_hidden_size": HIDDEN,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "in_channels": 3,
}
_LATENT = {
    "kv_lora_rank": 32,
    "q_lora_rank": 32,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "head_dim": 16,
    "num_key_value_heads": 4,
}
_SIGLIP = _vision("siglip_vision_model", vision_use_head=False)

_FROM_TINY = {
    "llama": "Llama 2 and 3, SmolLM2, Yi",
    "mistral": "Mistral 7B, Ministral",
    "qwen2": "Qwen 2, Qwen 2.5, QwQ",
    "qwen3": "Qwen 3",
    "gemma2": "Gemma 2",
    "gemma3_text": "Gemma 3 1B and 270M",
    "phi3": "Phi-3, Phi-4",
    "gpt2": "GPT-2 (Conv1D)",
    "opt": "OPT",
    "gpt_neox": "Pythia, GPT-NeoX",
    "olmo2": "OLMo 2",
    "bloom": "BLOOM",
    "starcoder2": "StarCoder2",
    "stablelm": "StableLM",
    "apertus": "Apertus",
}

FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in (
        *(Family(name, "text", KINDS[name].options, words) for name, words in _FROM_TINY.items()),
        Family("gemma", "text", TEXT, "Gemma 1"),
        Family("phi", "text", COMMON, "Phi-1, Phi-2"),
        Family("olmo", "text", COMMON, "OLMo 1"),
        Family("olmo3", "text", {**COMMON, "sliding_window": 8}, "OLMo 3"),
        Family("granite", "text", COMMON, "Granite 3"),
        Family("cohere", "text", COMMON, "Command R"),
        Family("cohere2", "text", {**TEXT, "sliding_window": 8}, "Command R7B, Command A"),
        Family("glm", "text", TEXT, "GLM-4 9B"),
        Family("glm4", "text", TEXT, "GLM-4-0414"),
        Family("smollm3", "text", COMMON, "SmolLM3"),
        Family("nemotron", "text", TEXT, "Nemotron, Minitron"),
        Family("exaone4", "text", {**TEXT, "sliding_window": 8}, "EXAONE 4"),
        Family("ernie4_5", "text", TEXT, "ERNIE 4.5 0.3B"),
        Family("hunyuan_v1_dense", "text", TEXT, "Hunyuan dense"),
        Family("helium", "text", TEXT, "Helium"),
        Family("seed_oss", "text", TEXT, "Seed-OSS"),
        Family(
            "falcon",
            "text",
            {**TOKENS, "hidden_size": HIDDEN, "num_hidden_layers": 2, "num_attention_heads": 4},
            "Falcon",
        ),
        Family(
            "gptj",
            "text",
            {**TOKENS, "n_embd": HIDDEN, "n_layer": 2, "n_head": 4, "rotary_dim": 8},
            "GPT-J",
        ),
        Family(
            "gpt_bigcode",
            "text",
            {**TOKENS, "n_embd": HIDDEN, "n_layer": 2, "n_head": 4, "n_positions": 64},
            "StarCoder",
        ),
        Family("mpt", "text", {**TOKENS, "d_model": HIDDEN, "n_layers": 2, "n_heads": 4}, "MPT"),
        Family(
            "lfm2",
            "text",
            {
                **COMMON,
                "layer_types": ["conv", "full_attention"],
                "block_auto_adjust_ff_dim": False,
            },
            "LFM2 (convolutions)",
        ),
        Family("mixtral", "moe", KINDS["mixtral"].options, "Mixtral"),
        Family("qwen2_moe", "moe", KINDS["qwen2_moe"].options, "Qwen 1.5 MoE, Qwen 2 57B-A14B"),
        Family("qwen3_moe", "moe", _moe(num_experts=4), "Qwen 3 30B-A3B, 235B-A22B"),
        Family("olmoe", "moe", _moe(num_experts=4, intermediate_size=32), "OLMoE"),
        Family(
            "deepseek_v2",
            "moe",
            _moe(**_LATENT, n_routed_experts=4, n_shared_experts=1, first_k_dense_replace=1),
            "DeepSeek V2, V2 Lite",
        ),
        Family(
            "deepseek_v3",
            "moe",
            _moe(
                **_LATENT,
                n_routed_experts=4,
                n_shared_experts=1,
                first_k_dense_replace=1,
                n_group=2,
                topk_group=1,
            ),
            "DeepSeek V3, R1, Kimi K2",
        ),
        Family(
            "gpt_oss",
            "moe",
            {**TEXT, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8},
            "gpt-oss 20B, 120B",
        ),
        Family(
            "granitemoe",
            "moe",
            {**COMMON, "num_local_experts": 4, "num_experts_per_tok": 2},
            "Granite 3 MoE",
        ),
        Family(
            "phimoe",
            "moe",
            {**COMMON, "num_local_experts": 4, "num_experts_per_tok": 2},
            "Phi-3.5 MoE",
        ),
        Family(
            "glm4_moe",
            "moe",
            _moe(n_routed_experts=4, n_shared_experts=1, first_k_dense_replace=1),
            "GLM-4.5, 4.6",
        ),
        Family(
            "dots1",
            "moe",
            _moe(
                n_routed_experts=4,
                n_shared_experts=1,
                first_k_dense_replace=1,
                n_group=1,
                topk_group=1,
            ),
            "dots.llm1",
        ),
        Family(
            "ernie4_5_moe",
            "moe",
            _moe(moe_num_experts=4, moe_k=2, moe_num_shared_experts=1),
            "ERNIE 4.5 21B-A3B",
        ),
        Family(
            "llama4_text",
            "moe",
            {
                **TEXT,
                "num_local_experts": 4,
                "num_experts_per_tok": 1,
                "intermediate_size_mlp": 96,
                "interleave_moe_layer_step": 1,
                "attention_chunk_size": 64,
            },
            "Llama 4 text",
        ),
        Family(
            "qwen3_next",
            "moe",
            _moe(
                num_experts=4,
                shared_expert_intermediate_size=32,
                layer_types=["linear_attention", "full_attention"],
                linear_num_key_heads=2,
                linear_num_value_heads=4,
                linear_key_head_dim=16,
                linear_value_head_dim=16,
            ),
            "Qwen 3 Next",
        ),
        Family(
            "llava",
            "vision",
            _composite(_text("llama"), _vision("clip_vision_model", projection_dim=32)),
            "LLaVA 1.5",
        ),
        Family(
            "pixtral",
            "vision",
            _composite(
                _text("mistral"),
                _vision("pixtral", head_dim=16),
                vision_feature_select_strategy="full",
                vision_feature_layer=-1,
            ),
            "Pixtral 12B",
            "llava",
        ),
        Family(
            "llava_next",
            "vision",
            _composite(
                _text("mistral"),
                _vision("clip_vision_model", projection_dim=32),
                image_grid_pinpoints=[[28, 56], [56, 28]],
            ),
            "LLaVA 1.6",
        ),
        Family(
            "llava_onevision",
            "vision",
            _composite(
                _text("qwen2"),
                _SIGLIP,
                image_grid_pinpoints=[[28, 56], [56, 28]],
                video_token_id=IMAGE + 1,
                video_token_index=IMAGE + 1,
            ),
            "LLaVA-OneVision",
        ),
        Family(
            "qwen2_vl",
            "vision",
            _composite(
                _text("qwen2_vl_text", rope_parameters=MROPE),
                {**_QWEN_VISION, "model_type": "qwen2_vl"},
                vision_start_token_id=IMAGE + 2,
                vision_end_token_id=IMAGE + 3,
                video_token_id=IMAGE + 1,
            ),
            "Qwen2-VL",
        ),
        Family(
            "qwen2_5_vl",
            "vision",
            _composite(
                _text("qwen2_5_vl_text", rope_parameters=MROPE),
                {
                    **_QWEN_VISION,
                    "model_type": "qwen2_5_vl",
                    "hidden_size": 32,
                    "fullatt_block_indexes": [1],
                    "window_size": 56,
                },
                vision_start_token_id=IMAGE + 2,
                vision_end_token_id=IMAGE + 3,
                video_token_id=IMAGE + 1,
            ),
            "Qwen2.5-VL",
        ),
        Family(
            "qwen3_vl",
            "vision",
            _composite(
                _text("qwen3_vl_text", rope_parameters={**MROPE, "mrope_interleaved": True}),
                {
                    **_QWEN_VISION,
                    "model_type": "qwen3_vl",
                    "hidden_size": 32,
                    "num_position_embeddings": 16,
                    "deepstack_visual_indexes": [0],
                },
                vision_start_token_id=IMAGE + 2,
                vision_end_token_id=IMAGE + 3,
                video_token_id=IMAGE + 1,
            ),
            "Qwen3-VL",
        ),
        Family(
            "qwen3_vl_moe",
            "vision",
            _composite(
                {
                    "model_type": "qwen3_vl_moe_text",
                    **_moe(num_experts=4),
                    "rope_parameters": {**MROPE, "mrope_interleaved": True},
                },
                {
                    **_QWEN_VISION,
                    "model_type": "qwen3_vl_moe",
                    "hidden_size": 32,
                    "num_position_embeddings": 16,
                    "deepstack_visual_indexes": [0],
                },
                vision_start_token_id=IMAGE + 2,
                vision_end_token_id=IMAGE + 3,
                video_token_id=IMAGE + 1,
            ),
            "Qwen3-VL 30B-A3B",
        ),
        Family(
            "gemma3",
            "vision",
            _composite(
                _text(
                    "gemma3_text",
                    sliding_window=8,
                    query_pre_attn_scalar=16,
                    layer_types=["sliding_attention", "full_attention"],
                ),
                _SIGLIP,
                mm_tokens_per_image=4,
                boi_token_index=IMAGE + 1,
                eoi_token_index=IMAGE + 2,
            ),
            "Gemma 3 4B to 27B",
        ),
        Family(
            "mistral3",
            "vision",
            _composite(
                _text("mistral"),
                _vision("pixtral", head_dim=16),
                spatial_merge_size=2,
                vision_feature_layer=-1,
            ),
            "Mistral Small 3.1, 3.2",
        ),
        Family(
            "smolvlm",
            "vision",
            _composite(_text("llama"), _vision("smolvlm_vision"), scale_factor=2),
            "SmolVLM, SmolVLM2",
        ),
        Family(
            "idefics3",
            "vision",
            _composite(_text("llama"), _vision("idefics3_vision"), scale_factor=2),
            "Idefics3",
        ),
        Family(
            "idefics2",
            "vision",
            _composite(
                _text("mistral"),
                _vision("idefics2"),
                perceiver_config={
                    "resampler_n_latents": 4,
                    "resampler_depth": 1,
                    "resampler_n_heads": 2,
                    "resampler_head_dim": 16,
                    "num_key_value_heads": 2,
                    "hidden_size": HIDDEN,
                },
            ),
            "Idefics2",
        ),
        Family(
            "internvl",
            "vision",
            _composite(
                _text("qwen2"),
                _vision("internvl_vision", image_size=[28, 28], patch_size=[14, 14]),
                image_seq_length=1,
            ),
            "InternVL 3",
        ),
        Family(
            "mllama",
            "vision",
            _composite(
                _text(
                    "mllama_text_model",
                    cross_attention_layers=[1],
                    num_hidden_layers=3,
                    rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
                ),
                _vision(
                    "mllama_vision_model",
                    attention_heads=2,
                    num_global_layers=1,
                    vision_output_dim=64,
                    intermediate_layers_indices=[1],
                    max_num_tiles=1,
                    supported_aspect_ratios=[[1, 1]],
                ),
            ),
            "Llama 3.2 Vision",
        ),
        Family(
            "paligemma",
            "vision",
            _composite(
                _text("gemma"), {**_SIGLIP, "projection_dim": HIDDEN}, projection_dim=HIDDEN
            ),
            "PaliGemma",
        ),
        Family(
            "aya_vision",
            "vision",
            _composite(_text("cohere2", sliding_window=8), _SIGLIP, downsample_factor=2),
            "Aya Vision",
        ),
        Family(
            "kimi_k25",
            "vision",
            _composite(
                {
                    "model_type": "deepseek_v3",
                    **_moe(
                        **_LATENT,
                        n_routed_experts=4,
                        n_shared_experts=1,
                        first_k_dense_replace=1,
                        n_group=2,
                        topk_group=1,
                    ),
                },
                {
                    **_vision("kimi_k25_vision", hidden_size=64, num_attention_heads=4),
                    "pos_emb_height": 4,
                    "pos_emb_width": 4,
                    "pos_emb_time": 2,
                },
                projection_hidden_size=64,
            ),
            "Kimi K2.5, like Kimi-VL",
        ),
        Family(
            "glm4v",
            "vision",
            _composite(
                _text(
                    "glm4v_text",
                    rope_parameters={**MROPE, "partial_rotary_factor": 1.0},
                ),
                {
                    **_QWEN_VISION,
                    "model_type": "glm4v_vision",
                    "hidden_size": 32,
                    "image_size": 28,
                },
                image_start_token_id=IMAGE + 2,
                image_end_token_id=IMAGE + 3,
                video_token_id=IMAGE + 1,
            ),
            "GLM-4.1V",
        ),
        Family(
            "cohere2_vision",
            "vision",
            _composite(_text("cohere2", sliding_window=8), _SIGLIP, downsample_factor=2),
            "Command A Vision",
        ),
        Family(
            "lfm2_vl",
            "vision",
            _composite(
                {
                    "model_type": "lfm2",
                    **COMMON,
                    "layer_types": ["conv", "full_attention"],
                    "block_auto_adjust_ff_dim": False,
                },
                _vision("siglip2_vision_model", num_patches=16, vision_use_head=False),
                downsample_factor=2,
                projector_hidden_size=64,
            ),
            "LFM2-VL",
        ),
        Family(
            "phi4_multimodal",
            "vision",
            {
                **COMMON,
                "vision_config": {
                    "hidden_size": 32,
                    "intermediate_size": 64,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 2,
                    "image_size": 28,
                    "crop_size": 28,
                    "image_token_id": IMAGE,
                    "feature_layer": -1,
                },
                "audio_config": {
                    "hidden_size": 32,
                    "intermediate_size": 64,
                    "num_blocks": 1,
                    "num_attention_heads": 2,
                    "input_size": 16,
                    "ext_pw_out_channel": 32,
                    "nemo_conv_channels": 16,
                    "audio_token_id": IMAGE + 1,
                },
                "lora_dropout": 0.0,
            },
            "Phi-4 multimodal",
        ),
        Family(
            "got_ocr2",
            "vision",
            _composite(
                _text("qwen2"),
                {
                    "hidden_size": 32,
                    "output_channels": 16,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 2,
                    "image_size": 64,
                    "patch_size": 16,
                    "mlp_dim": 64,
                    "window_size": 2,
                    "global_attn_indexes": [1],
                },
                image_seq_length=1,
            ),
            "GOT-OCR 2",
        ),
        Family(
            "aria",
            "vision",
            _composite(
                {
                    "model_type": "aria_text",
                    **TEXT,
                    "moe_num_experts": 4,
                    "moe_topk": 2,
                    "moe_num_shared_experts": 1,
                    "intermediate_size": 32,
                },
                _vision("idefics3_vision"),
                projector_patch_to_query_dict={4: 2},
            ),
            "Aria",
        ),
    )
}


def make_config(name: str) -> Any:
    """Return the config of a family."""
    from transformers import AutoConfig

    family = FAMILIES[name]
    return AutoConfig.for_model(family.type, **family.options)


def make_model(name: str, *, seed: int = 0) -> Any:
    """Build a family's model with random weights that differ everywhere."""
    import torch
    import transformers

    torch.manual_seed(seed)
    config = make_config(name)
    # The first class of a vision config is that of its text model alone.
    kinds = ("AutoModelForImageTextToText", "AutoModelForCausalLM")
    for auto in kinds if FAMILIES[name].kind == "vision" else kinds[::-1]:
        try:
            model = getattr(transformers, auto).from_config(config)
            break
        except ValueError:  # not mapped
            continue
    model = model.eval()
    parameters = dict(model.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        for key, buffer in model.state_dict().items():
            if key not in parameters and buffer.is_floating_point():
                buffer.add_(torch.rand_like(buffer))
    return model


__all__ = ["FAMILIES", "IMAGE", "VOCAB", "Family", "make_config", "make_model"]
