"""A config with anything unusual is not judged without its class."""

from __future__ import annotations

from typing import Any

import pytest

from autoround.model.known_configs import is_plain

NAME = "LlamaForCausalLM"
CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "architectures": [NAME],
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"rms_norm_eps": 1e-5, "hidden_act": "silu", "use_cache": True, "dtype": "float16"},
        {"rope_scaling": None, "rope_theta": 10000, "torch_dtype": "bfloat16"},
        {"rope_parameters": LLAMA3, "quantization_config": {"bits": 4}},
        {"bos_token_id": 1, "eos_token_id": [2, 3], "pad_token_id": 0},
    ],
)
def test_usual_configs_are_plain(keys: dict[str, Any]) -> None:
    assert is_plain({**CONFIG, **keys}, NAME)


@pytest.mark.parametrize(
    "keys",
    [
        {"foo": 1},
        {"model_type": "gpt2"},
        {"architectures": None},
        {"architectures": [NAME, NAME]},
        {"hidden_size": "64"},
        {"hidden_size": 66},
        {"hidden_size": 64.0},
        {"num_hidden_layers": 0},
        {"num_hidden_layers": True},
        {"num_key_value_heads": 3},
        {"num_key_value_heads": None},
        {"rms_norm_eps": 1},
        {"rms_norm_eps": float("nan")},
        {"initializer_range": 2.0},
        {"hidden_act": "nope"},
        {"use_cache": 1},
        {"dtype": "float64"},
        {"dtype": "float16", "torch_dtype": "float16"},
        {"bos_token_id": 128},
        {"pad_token_id": -1},
        {"eos_token_id": []},
        {"eos_token_id": [1, 500]},
        {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}},
        {"rope_parameters": {"rope_type": "default", "factor": 4.0}},
        {"rope_parameters": {**LLAMA3, "factor": 0.5}},
        {"rope_parameters": {**LLAMA3, "high_freq_factor": 1.0}},
        {"rope_parameters": {**LLAMA3, "original_max_position_embeddings": 64}},
        {"rope_parameters": {key: x for key, x in LLAMA3.items() if key != "rope_theta"}},
        {"rope_parameters": LLAMA3, "rope_scaling": LLAMA3},
        {"quantization_config": None},
        {"quantization_config": [1]},
        {"layer_types": ["full_attention"] * 2},
        {"sliding_window": 8},
    ],
)
def test_unusual_ones_are_not(keys: dict[str, Any]) -> None:
    assert not is_plain({**CONFIG, **keys}, NAME)


@pytest.mark.parametrize("key", [key for key in CONFIG if "max" not in key])
def test_nothing_is_taken_from_the_defaults_of_a_class(key: str) -> None:
    assert not is_plain({name: x for name, x in CONFIG.items() if name != key}, NAME)
