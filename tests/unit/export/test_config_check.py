"""A config that makes another model than the one quantized is found before any work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from autoround.errors import ModelError
from autoround.export.config_check import check_configs, why_another_model
from autoround.export.model_config import model_config
from autoround.model.build import build_from
from autoround.model.skeleton import Skeleton

from ...runs import skeleton_on_meta


def skeleton(kind: str, **options: Any) -> Skeleton:
    return skeleton_on_meta(build_from(AutoConfig.for_model(kind, **options)))


LLAMA: dict[str, Any] = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}


def test_the_config_of_the_model_itself_makes_it_again() -> None:
    model = skeleton("llama", **LLAMA)
    check_configs([model_config(model, "LlamaForCausalLM", "bfloat16")], model)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden_size": 32}, "has shape"),
        ({"num_hidden_layers": 3}, r"model\.layers\.2.* has shape"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e4}}, "inv_freq has other"),
        ({"architectures": ["MistralForCausalLM"], "model_type": "mistral"}, "a Mistral"),
        ({"model_type": "no-such-model"}, "has no model_type no-such-model"),
    ],
)
def test_another_model_is_refused(change: dict[str, Any], words: str) -> None:
    model = skeleton("llama", **LLAMA)
    config = {**model_config(model, "LlamaForCausalLM", "bfloat16"), **change}
    with pytest.raises(ModelError, match=words):
        check_configs([config], model)


def test_how_weights_are_stored_does_not_matter(tmp_path: Path) -> None:
    model = skeleton("llama", **LLAMA)
    config = model_config(model, "LlamaForCausalLM", "float16")
    quantized = {**config, "quantization_config": {"quant_method": "gptq", "bits": 4}}
    check_configs([quantized], model)
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert why_another_model(tmp_path, model) == ""


#: Configs whose class reads rotary parameters in a way of its own.
ROTARY: list[tuple[str, dict[str, Any]]] = [
    (
        "gpt_neox",
        {
            "rope_parameters": {
                "rope_type": "linear",
                "rope_theta": 50000,
                "factor": 2.0,
                "partial_rotary_factor": 0.25,
            }
        },
    ),
    ("gemma4_text", {"num_hidden_layers": 6}),
    ("gemma3_text", {"num_hidden_layers": 6}),
    ("phi3", {}),
    ("glm4", {}),
    ("qwen3_next", {"num_hidden_layers": 4}),
]


@pytest.mark.parametrize(("kind", "options"), ROTARY)
def test_keys_for_older_programs_do_not_change_the_model(
    kind: str, options: dict[str, Any]
) -> None:
    model = skeleton(kind, **options)
    check_configs([model_config(model, type(model.model).__name__, "bfloat16")], model)
