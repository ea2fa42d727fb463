"""Entries that describe a model; whole files of every architecture are in test_arch.py."""

from __future__ import annotations

from typing import Any

from autoround.gguf.metadata import QUANTIZATION_VERSION, metadata

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-6,
    "vocab_size": 320,
}


def entries(config: dict[str, Any], file_type: str = "q4_k_m") -> dict[str, Any]:
    return {f.key: f.value for f in metadata(config, name="tiny", file_type=file_type)}


def test_shape_and_file_type_are_stated() -> None:
    stated = entries(CONFIG)
    assert stated["general.name"] == "tiny"
    assert stated["general.file_type"] == 15
    assert stated["general.quantization_version"] == QUANTIZATION_VERSION
    assert stated["llama.block_count"] == 3
    assert stated["llama.attention.head_count_kv"] == 2
    assert stated["llama.attention.key_length"] == 16
    assert stated["llama.rope.dimension_count"] == 16
    assert "llama.rope.scaling.type" not in stated


def test_a_yarn_model_states_its_original_context() -> None:
    rope = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0}
    stated = entries({**CONFIG, "rope_parameters": rope})
    assert stated["llama.rope.freq_base"] == 1e6
    assert stated["llama.rope.scaling.type"] == "yarn"
    assert stated["llama.rope.scaling.factor"] == 4.0
    assert stated["llama.rope.scaling.original_context_length"] == 128


def test_every_key_value_head_is_its_own_where_the_config_states_none() -> None:
    config = {key: value for key, value in CONFIG.items() if key != "num_key_value_heads"}
    assert entries(config)["llama.attention.head_count_kv"] == 4


def test_keys_of_the_config_and_constants_become_entries() -> None:
    granite = entries({**CONFIG, "model_type": "granite", "attention_multiplier": 0.25})
    assert granite["granite.attention.scale"] == 0.25
    deep = {
        "model_type": "deepseek_v3",
        "n_routed_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "q_lora_rank": 16,
        "kv_lora_rank": 8,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 8,
        "v_head_dim": 12,
        "norm_topk_prob": True,
    }
    stated = {k.removeprefix("deepseek2."): v for k, v in entries({**CONFIG, **deep}).items()}
    assert stated["expert_gating_func"] == 2
    assert stated["expert_weights_norm"] is True
    assert (stated["attention.key_length"], stated["attention.value_length"]) == (24, 12)
    assert (stated["attention.head_count_kv"], stated["rope.dimension_count"]) == (4, 8)


def test_norms_that_subtract_the_mean_state_their_epsilon_by_another_name() -> None:
    config = {key: value for key, value in CONFIG.items() if key != "rms_norm_eps"}
    stated = entries({**config, "model_type": "starcoder2", "norm_epsilon": 1e-3})
    assert stated["starcoder2.attention.layer_norm_epsilon"] == 1e-3
    assert "starcoder2.attention.layer_norm_rms_epsilon" not in stated
    fixed = entries({**config, "model_type": "olmo"})
    assert fixed["olmo.attention.layer_norm_epsilon"] == 1e-5
