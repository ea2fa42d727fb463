"""The architectures that can be written, and what llama.cpp computes of each: one table.

Every row is what a run of llama.cpp beside transformers showed on a small random model
(`tools/clients/gguf_archs.py`), not what its files have keys for: llama.cpp passes over a key
that an architecture of its does not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from autoround.errors import FormatError
from autoround.gguf.fields import Field, Kind

#: Which layers llama.cpp takes to have a sliding window: none, all, every layer but each
#: nth, or those that a list in the file names.
Windows = Literal["none", "listed"] | int


#: Of which sort the rotary embedding of layers with a window is: that of the others, the same base
#: without scaling, or a base of its own without scaling.
Local = Literal["same", "unscaled", "own"]
#: Key of the config, key of the file, type.
FromConfig = tuple[str, str, Kind]


@dataclass(frozen=True, slots=True)
class Architecture:
    """How llama.cpp computes an architecture.

    Attributes:
        name: llama.cpp's name.
        activations: transformers' names of the activations that it computes.
        pairs: Whether its rotary embedding turns neighbours, where transformers turns halves.
        plus_one: Whether its norms hold what transformers adds one to.
        frequencies: Whether it reads a tensor that divides each rotary frequency.
        long_factors: Whether it reads the two tensors of LongRoPE.
        partial: Whether only a part of each head may turn.
        grouped: Whether several heads of queries may share one of keys and values.
        local: The rotary embedding of layers with a window.
        windows: Which layers have a sliding window: "none", "listed" in the file, or a number:
            all but each nth.
        windowless: Whether it may have no window at all, by one as wide as the context: its windows
            decide nothing else.
        fields: Entries that are a key of the config each.
        constants: Entries that no config has a key for.
        renames: Tensors that the gguf package has no name for: a pattern, and the name.
        legal: Keys of the config with the values that llama.cpp computes, where the default of
            transformers' class is not the only one.
        keys: Keys of the config that shapes or refusals speak of, beside the common ones.
    """

    name: str
    activations: tuple[str, ...] = ("silu",)
    pairs: bool = False
    plus_one: bool = False
    frequencies: bool = False
    long_factors: bool = False
    partial: bool = False
    grouped: bool = True
    local: Local = "same"
    windows: Windows = "none"
    windowless: bool = False
    fields: tuple[FromConfig, ...] = ()
    constants: tuple[Field, ...] = ()
    renames: tuple[tuple[str, str], ...] = ()
    legal: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    keys: tuple[str, ...] = ()

    def known_keys(self) -> frozenset[str]:
        """Return the keys of a config that are written or refused, beside the common ones."""
        written = (key for key, _, _ in self.fields)
        return frozenset((*self.keys, *written, *(key for key, _ in self.legal)))


#: Of tensors that are read where a file has them; elsewhere, only the default was tried.
_BIASES = ("attention_bias", "mlp_bias")
_LLAMA = Architecture("llama", pairs=True, frequencies=True, long_factors=True, keys=_BIASES)
_TANH = ("gelu_pytorch_tanh", "gelu_new")
_GELU = (*_TANH, "gelu")
_SPARSE = ("decoder_sparse_step", "mlp_only_layers")
_GEMMA = ("query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping")
_NO_QK_NORM = (("qk_layernorm", (False,)),)
_SIGMOID = Field("expert_gating_func", 2, "u32")
_SOFTMAX = Field("expert_gating_func", 1, "u32")
_ROUTED: tuple[FromConfig, ...] = (
    ("n_shared_experts", "expert_shared_count", "u32"),
    ("first_k_dense_replace", "leading_dense_block_count", "u32"),
    ("routed_scaling_factor", "expert_weights_scale", "f32"),
    ("norm_topk_prob", "expert_weights_norm", "bool"),
    ("n_group", "expert_group_count", "u32"),
    ("topk_group", "expert_group_used_count", "u32"),
)
_ROUTER_BIAS = (
    r"^model\.layers\.(\d+)\.mlp\.gate\.e_score_correction_bias$",
    r"blk.\1.exp_probs_b.bias",
)
_MULTIPLIERS: tuple[FromConfig, ...] = (
    ("attention_multiplier", "attention.scale", "f32"),
    ("embedding_multiplier", "embedding_scale", "f32"),
    ("residual_multiplier", "residual_scale", "f32"),
    ("logits_scaling", "logit_scale", "f32"),
)
_LATENT: tuple[FromConfig, ...] = (
    ("q_lora_rank", "attention.q_lora_rank", "u32"),
    ("kv_lora_rank", "attention.kv_lora_rank", "u32"),
)
_LATENT_KEYS = ("qk_head_dim", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
_LOGIT_SCALE: tuple[FromConfig, ...] = (("logit_scale", "logit_scale", "f32"),)
_PARALLEL: tuple[FromConfig, ...] = (("use_parallel_residual", "use_parallel_residual", "bool"),)
#: By transformers' model type.
ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": _LLAMA,
    "mistral": replace(_LLAMA, keys=()),
    "mixtral": replace(_LLAMA, keys=()),
    "qwen2": Architecture("qwen2"),
    "qwen3": Architecture("qwen3"),
    "qwen2_moe": Architecture("qwen2moe", legal=(("norm_topk_prob", (False,)),), keys=_SPARSE),
    "qwen3_moe": Architecture("qwen3moe", legal=(("norm_topk_prob", (True,)),), keys=_SPARSE),
    "gemma": Architecture("gemma", _TANH, plus_one=True),
    "gemma2": Architecture("gemma2", _TANH, plus_one=True, windows=2, windowless=True, keys=_GEMMA),
    "gemma3_text": Architecture(
        "gemma3",
        _TANH,
        plus_one=True,
        local="own",
        windows=6,
        keys=(*_GEMMA, "_sliding_window_pattern"),
    ),
    "phi3": Architecture("phi3", long_factors=True, partial=True),
    "gpt2": Architecture("gpt2", _TANH),
    "olmo": Architecture(
        "olmo",
        pairs=True,
        fields=(("clip_qkv", "attention.clamp_kqv", "f32"),),
        constants=(Field("attention.layer_norm_epsilon", 1e-5, "f32"),),
    ),
    "olmo2": Architecture("olmo2"),
    "olmo3": Architecture("olmo2", windows=4, local="unscaled"),
    "olmoe": Architecture("olmoe", grouped=False),
    "granite": Architecture("granite", pairs=True, frequencies=True, fields=_MULTIPLIERS),
    "granitemoe": Architecture(
        "granitemoe",
        pairs=True,
        frequencies=True,
        fields=_MULTIPLIERS,
        renames=(
            (
                r"^model\.layers\.(\d+)\.block_sparse_moe\.router\.weight$",
                r"blk.\1.ffn_gate_inp.weight",
            ),
        ),
    ),
    "smollm3": Architecture(
        "smollm3", pairs=True, keys=("no_rope_layers", "no_rope_layer_interval")
    ),
    "arcee": Architecture("arcee", ("relu2",), pairs=True, frequencies=True),
    "starcoder2": Architecture("starcoder2", _GELU, keys=("embedding_dropout",)),
    "stablelm": Architecture(
        "stablelm", partial=True, fields=_PARALLEL, legal=_NO_QK_NORM, keys=("use_qkv_bias",)
    ),
    "phi": Architecture("phi2", _GELU, partial=True, legal=_NO_QK_NORM),
    "gpt_neox": Architecture(
        "gptneox", _GELU, partial=True, grouped=False, fields=_PARALLEL, keys=("is_decoder",)
    ),
    "nemotron": Architecture("nemotron", ("relu2",), partial=True, plus_one=True, keys=_BIASES),
    "cohere": Architecture("command-r", fields=_LOGIT_SCALE),
    "cohere2": Architecture("cohere2", windows=4, fields=_LOGIT_SCALE),
    "glm": Architecture("chatglm", partial=True),
    "glm4": Architecture("glm4", partial=True),
    "glm4_moe": Architecture(
        "glm4moe",
        partial=True,
        fields=_ROUTED,
        constants=(_SIGMOID,),
        renames=(_ROUTER_BIAS,),
        # Layers for more tokens at once, which transformers does not load.
        keys=("use_qk_norm", "num_nextn_predict_layers"),
    ),
    "exaone4": Architecture("exaone4", frequencies=True, windows=4),
    "seed_oss": Architecture("seed_oss", keys=("attention_out_bias",)),
    "ernie4_5": Architecture("ernie4_5"),
    "ernie4_5_moe": Architecture(
        "ernie4_5-moe",
        fields=(
            ("moe_num_experts", "expert_count", "u32"),
            ("moe_k", "expert_used_count", "u32"),
            ("moe_num_shared_experts", "expert_shared_count", "u32"),
            ("moe_layer_interval", "interleave_moe_layer_step", "u32"),
            ("moe_layer_start_index", "leading_dense_block_count", "u32"),
        ),
        renames=(
            (
                r"^model\.layers\.(\d+)\.mlp\.gate\.moe_statics\.e_score_correction_bias$",
                r"blk.\1.exp_probs_b.bias",
            ),
        ),
        keys=("moe_layer_end_index",),
    ),
    "hunyuan_v1_dense": Architecture("hunyuan-dense", keys=("eod_token_id",)),
    "dots1": Architecture(
        "dots1", grouped=False, fields=_ROUTED, constants=(_SIGMOID,), renames=(_ROUTER_BIAS,)
    ),
    "deepseek_v2": Architecture(
        "deepseek2",
        fields=(*_ROUTED, *_LATENT),
        constants=(_SOFTMAX,),
        legal=(("norm_topk_prob", (False,)),),
        keys=_LATENT_KEYS,
    ),
    "deepseek_v3": Architecture(
        "deepseek2",
        fields=(*_ROUTED, *_LATENT),
        constants=(_SIGMOID,),
        renames=(_ROUTER_BIAS,),
        keys=(*_LATENT_KEYS, "num_nextn_predict_layers"),
    ),
}


def text_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the config of a model's text part: that of the model where it has no other.

    Args:
        config: As transformers writes it.
    """
    text = config.get("text_config")
    if config.get("model_type") in ARCHITECTURES or not isinstance(text, Mapping):
        return config
    # The head belongs to the whole, and so does whether it is the embeddings.
    tied = config.get("tie_word_embeddings", text.get("tie_word_embeddings"))
    return {**text, "tie_word_embeddings": tied}


def architecture_of(config: Mapping[str, Any]) -> Architecture:
    """Return the architecture of a model, or of its text part.

    Args:
        config: As transformers writes it.

    Raises:
        FormatError: It cannot be written.
    """
    kind = text_part(config).get("model_type")
    if kind not in ARCHITECTURES:
        outer = config.get("model_type")
        part = f" (text part of {outer!r})" if outer != kind else ""
        raise FormatError(
            f"GGUF: model type {kind!r}{part} cannot be written; legal: {', '.join(ARCHITECTURES)}"
        )
    return ARCHITECTURES[str(kind)]
