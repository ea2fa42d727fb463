"""Configs of which it is certain, without transformers, that it builds a model of them in silence.

Every key is one of those below, with a value of the kind that stands there. A config with any other
key or value is not judged here: transformers' class is asked then, with all that it says.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from autoround.storage.dtypes import KEPT_DTYPES

Test: TypeAlias = Callable[[Any], bool]

#: What a folder says of generation.
GENERATION = "generation_config.json"
#: A larger file is not one on generation.
_MAX_BYTES = 1 << 20


def _count(value: Any) -> bool:
    return type(value) is int and value > 0


def _flag(value: Any) -> bool:
    return type(value) is bool


def _number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value >= 0


def _real(value: Any) -> bool:
    return type(value) is float and math.isfinite(value) and 0 <= value <= 1


def _text(value: Any) -> bool:
    return type(value) is str


def _list(value: Any) -> bool:
    return type(value) is list


def _table(value: Any) -> bool:
    return type(value) is dict


def _or_none(test: Test) -> Test:
    return lambda value: value is None or test(value)


def _one_of(*values: object) -> Test:
    return lambda value: type(value) is str and value in values


def _token(value: Any) -> bool:
    return type(value) is int and value >= 0


def _tokens(value: Any) -> bool:
    return _token(value) or (type(value) is list and bool(value) and all(map(_token, value)))


def _positive(value: Any) -> bool:
    return _number(value) and value > 0


#: Numbers that describe how Llama 3.1 stretches its rotary embeddings.
_LLAMA3: Mapping[str, Test] = {
    "factor": lambda value: _number(value) and value >= 1,
    "low_freq_factor": _positive,
    "high_freq_factor": _positive,
    "original_max_position_embeddings": _count,
}


def _rope(value: Any) -> bool:
    """Tell whether rotary embeddings are of a kind whose keys are all there."""
    if type(value) is not dict or value.get("rope_type") not in ("default", "llama3"):
        return False
    stretched = value["rope_type"] == "llama3"
    tests = {"rope_theta": _positive, **(_LLAMA3 if stretched else {})}
    settings = {key: part for key, part in value.items() if key != "rope_type"}
    if not all(key in tests and tests[key](part) for key, part in settings.items()):
        return False
    return not stretched or settings.keys() >= _LLAMA3.keys()


_DTYPE = _one_of(*KEPT_DTYPES)

#: Keys of every config. Beside those of quantization, which modules are built without.
COMMON: Mapping[str, Test] = {
    "model_type": _text,
    "transformers_version": _text,
    "_name_or_path": _text,
    "torch_dtype": _DTYPE,
    "dtype": _DTYPE,
    "use_cache": _flag,
    "quantization_config": _table,
    "compression_config": _table,
    "quantization": _table,
    "vocab_size": _count,
    "hidden_size": _count,
    "intermediate_size": _count,
    "num_hidden_layers": _count,
    "num_attention_heads": _count,
    "num_key_value_heads": _count,
    "hidden_act": _one_of("silu", "gelu", "relu"),
    "max_position_embeddings": _count,
    "initializer_range": _real,
    "rms_norm_eps": _real,
    "tie_word_embeddings": _flag,
    "rope_theta": _positive,
    "rope_scaling": _or_none(_rope),
    "rope_parameters": _or_none(_rope),
    "attention_dropout": _real,
    "pad_token_id": _or_none(_token),
    "bos_token_id": _or_none(_token),
    "eos_token_id": _or_none(_tokens),
}
_LEGACY: Mapping[str, Test] = {"pretraining_tp": _count}
_SLIDING: Mapping[str, Test] = {"sliding_window": _or_none(_count)}
_SLIDING_LAYERS: Mapping[str, Test] = {
    **_SLIDING,
    "use_sliding_window": _flag,
    "max_window_layers": _token,
    "layer_types": lambda value: type(value) is list and set(value) == {"full_attention"},
}
_HEADS: Mapping[str, Test] = {"head_dim": _count}
_BIAS: Mapping[str, Test] = {"attention_bias": _flag}

#: Further keys of each model type, with those of COMMON all there are.
KEYS: Mapping[str, Mapping[str, Test]] = {
    "llama": {**_LEGACY, **_HEADS, **_BIAS, "mlp_bias": _flag},
    "mistral": {**_HEADS, **_SLIDING},
    "qwen2": _SLIDING_LAYERS,
    "qwen3": {**_SLIDING_LAYERS, **_HEADS, **_BIAS},
    "qwen3_moe": {
        **_SLIDING,
        **_HEADS,
        **_BIAS,
        "use_sliding_window": _flag,
        "max_window_layers": _token,
        "decoder_sparse_step": _count,
        "moe_intermediate_size": _count,
        "num_experts_per_tok": _count,
        "num_experts": _count,
        "num_local_experts": _count,
        "norm_topk_prob": _flag,
        "output_router_logits": _flag,
        "router_aux_loss_coef": _real,
        "mlp_only_layers": lambda value: type(value) is list and all(map(_token, value)),
    },
}
#: Keys without which the class takes numbers of its own.
_NEEDED = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads"),
)
_GENERATION: Mapping[str, Test] = {
    "_from_model_config": _flag,
    "transformers_version": _text,
    "use_cache": _flag,
    "bos_token_id": _or_none(_token),
    "eos_token_id": _or_none(_tokens),
    "pad_token_id": _or_none(_token),
}


def is_plain(config: Mapping[str, Any], architecture: str) -> bool:
    """Tell whether a config has nothing but known keys, with values that fit each other.

    Args:
        config: a config.json.
        architecture: the class that it is to be of.
    """
    kind = config.get("model_type")
    if type(kind) is not str or kind not in KEYS or config.get("architectures") != [architecture]:
        return False
    tests = {**COMMON, **KEYS[kind], "architectures": _list}
    if not all(key in tests and tests[key](value) for key, value in config.items()):
        return False
    return all(key in config for key in _NEEDED) and _fits(config)


def _fits(config: Mapping[str, Any]) -> bool:
    """Tell whether numbers that know each other fit, as classes check them."""
    heads, layers = config["num_attention_heads"], config["num_hidden_layers"]
    vocabulary = config["vocab_size"]
    eos = config.get("eos_token_id")
    tokens = [config.get("pad_token_id"), config.get("bos_token_id")]
    tokens += eos if isinstance(eos, list) else [eos]
    return (
        config["hidden_size"] % heads == 0
        and heads % config["num_key_value_heads"] == 0
        and all(token is None or token < vocabulary for token in tokens)
        and len(config.get("layer_types") or [None] * layers) == layers
        and not ("rope_scaling" in config and "rope_parameters" in config)
        and not ("num_experts" in config and "num_local_experts" in config)
        and not ("torch_dtype" in config and "dtype" in config)
        and _rope_fits(config)
    )


def _rope_fits(config: Mapping[str, Any]) -> bool:
    """Tell whether numbers of stretched rotary embeddings are as the class wants them."""
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if rope.get("rope_type") != "llama3":
        return True
    positions = config.get("max_position_embeddings", 0)
    return (
        rope["low_freq_factor"] < rope["high_freq_factor"]
        and rope["original_max_position_embeddings"] < positions
        and ("rope_theta" in rope or "rope_theta" in config)
    )


def generation_is_plain(folder: Path) -> bool:
    """Tell whether what a folder says of generation is nothing that a class has words about.

    Args:
        folder: of the model; without the file there is nothing.
    """
    path = folder / GENERATION
    if not path.is_file():
        return True
    try:
        if path.stat().st_size > _MAX_BYTES:
            return False
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return type(values) is dict and all(
        key in _GENERATION and _GENERATION[key](value) for key, value in values.items()
    )
