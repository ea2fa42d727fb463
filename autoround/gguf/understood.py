"""Refuse a config with a key that is not known here: it may change what the model computes.

transformers' class of a model tells which keys there are, and their defaults. A default is held
by the check against llama.cpp; another value of a key that no file of ours speaks of is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autoround.errors import FormatError

#: Keys that shapes, metadata or refusals of every architecture speak of.
COMMON = frozenset(
    (
        *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
        *("num_attention_heads", "num_key_value_heads", "head_dim", "max_position_embeddings"),
        *("n_embd", "n_layer", "n_head", "n_positions", "n_ctx", "n_inner"),
        *("hidden_act", "hidden_activation", "activation_function", "rms_norm_eps"),
        *("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps"),
        *("rope_parameters", "rope_theta", "rope_scaling", "partial_rotary_factor"),
        *("original_max_position_embeddings", "tie_word_embeddings"),
        *("sliding_window", "layer_types", "use_sliding_window", "max_window_layers"),
        *("sliding_window_pattern", "num_local_experts", "num_experts", "n_routed_experts"),
        *("num_experts_per_tok", "moe_intermediate_size", "shared_expert_intermediate_size"),
    )
)
#: Keys that decide nothing of what a written model computes.
HARMLESS = frozenset(
    (
        *("initializer_range", "use_cache", "pretraining_tp", "attention_dropout"),
        *("hidden_dropout", "attn_pdrop", "resid_pdrop", "embd_pdrop", "resid_dropout"),
        *("hidden_dropout_prob", "embd_dropout", "router_aux_loss_coef", "output_router_logits"),
        *("router_jitter_noise", "input_jitter_noise", "bos_token_id", "eos_token_id"),
        *("pad_token_id", "cls_token_id", "sep_token_id", "aux_loss_alpha", "seq_aux"),
        # Precision and order of the same sums.
        *("reorder_and_upcast_attn", "residual_dropout", "residual_in_fp32"),
        # Heads of classes that are no language models.
        *("summary_type", "summary_use_proj", "summary_activation", "summary_first_dropout"),
        *("summary_proj_to_labels", "classifier_dropout"),
    )
)


def refuse_unknown_keys(config: Mapping[str, Any], understood: frozenset[str]) -> None:
    """Refuse a config with a key of its class that is set, and that nothing here speaks of.

    Args:
        config: As transformers writes it.
        understood: Keys that the architecture's metadata or refusals speak of, beside the common.

    Raises:
        FormatError: There is one.
    """
    defaults = _defaults(str(config.get("model_type")))
    for key in sorted(defaults.keys() - COMMON - HARMLESS - understood):
        value = config.get(key, defaults[key])
        if value != defaults[key]:
            raise FormatError(
                f"GGUF: {key}={value!r} of the model's config is not known, so that it cannot be "
                f"told whether llama.cpp computes it; its default is {defaults[key]!r}"
            )


def _defaults(kind: str) -> dict[str, Any]:
    """Return the keys that transformers' class of a model declares, with their defaults."""
    from transformers import PreTrainedConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if kind not in CONFIG_MAPPING:
        return {}
    defaults: dict[str, Any] = CONFIG_MAPPING[kind]().to_dict()
    shared = PreTrainedConfig().to_dict().keys()
    return {key: value for key, value in defaults.items() if key not in shared}
