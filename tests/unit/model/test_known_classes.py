"""The classes that are written down are those of transformers, tensor by tensor."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from autoround import tested
from autoround.model.blocks import decoder_blocks, matrices, tied_names
from autoround.model.build import build_empty
from autoround.model.experts import GATED, expert_tensors
from autoround.model.known_classes import KnownClass, known_class
from autoround.model.known_configs import GENERATION

COMMON: Mapping[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": [1, 3],
    "pad_token_id": None,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "dtype": "bfloat16",
}
NAMES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
MOE = {"num_experts": 4, "moe_intermediate_size": 32, "num_experts_per_tok": 2}
CASES = [
    ("llama", {}),
    ("llama", {"head_dim": 32, "attention_bias": True, "mlp_bias": True}),
    ("llama", {"tie_word_embeddings": True, "rope_theta": 5e5, "rope_scaling": LLAMA3}),
    ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e5}}),
    ("llama", {"num_hidden_layers": 1, "num_key_value_heads": 4, "pretraining_tp": 1}),
    ("mistral", {"sliding_window": 8}),
    ("mistral", {"sliding_window": None, "head_dim": 8}),
    ("qwen2", {"use_sliding_window": False, "sliding_window": 8, "max_window_layers": 2}),
    ("qwen2", {"tie_word_embeddings": True, "layer_types": ["full_attention"] * 2}),
    ("qwen3", {}),
    ("qwen3", {"head_dim": 16, "attention_bias": True, "tie_word_embeddings": True}),
    ("qwen3_moe", MOE),
    ("qwen3_moe", {**MOE, "head_dim": 8, "attention_bias": True, "mlp_only_layers": [0]}),
    ("qwen3_moe", {**MOE, "decoder_sparse_step": 2, "norm_topk_prob": True}),
]


def write(folder: Path, kind: str, options: Mapping[str, Any]) -> dict[str, Any]:
    config = {"model_type": kind, "architectures": [NAMES[kind]], **COMMON, **options}
    (folder / "config.json").write_text(json.dumps(config))
    return config


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_a_class_is_as_it_is_written_down(
    tmp_path: Path, kind: str, options: Mapping[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    known = known_class(write(tmp_path, kind, options), tmp_path)
    assert known is not None
    built = build_empty(tmp_path)
    assert known.name == type(built).__name__
    assert list(known.blocks) == decoder_blocks(built)
    assert known.tied == frozenset(tied_names(built))
    stacked = expert_tensors(built)
    own = {m.name: m for m in matrices(built, "")}
    assert [m.name for m in known.matrices] == list(own)
    for m in known.matrices:
        assert m.experts == own[m.name].experts
        assert m.bias == own[m.name].bias
        if not m.experts:
            assert m.shape == own[m.name].shape
        else:
            rows, columns = stacked[m.name].shape
            assert m.shape == (rows // (2 if GATED in m.name else 1), columns)
            assert len(list(m.files())) == m.experts * (2 if GATED in m.name else 1)
    assert plain_shapes(known) == {
        name: tuple(tensor.shape)
        for name, tensor in built.state_dict().items()
        if name not in stacked
    }
    # Nothing is said while it is built, so that nothing is left unsaid.
    assert capfd.readouterr() == ("", "")


def plain_shapes(known: KnownClass) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all tensors but those of experts."""
    experts = {f"{file}.weight" for m in known.matrices if m.experts for file in m.files()}
    return {name: shape for name, shape in known.tensors().items() if name not in experts}


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("llama", {"architectures": ["LlamaModel"]}),
        ("llama", {"model_type": "gpt2"}),
        ("llama", {"auto_map": {"AutoModel": "x.y"}}),
        ("qwen3_moe", {**MOE, "num_experts": 1}),
        ("qwen3_moe", {**MOE, "num_experts": 2000}),
        ("qwen3_moe", {**MOE, "moe_intermediate_size": 4}),
        ("qwen3_moe", {}),
    ],
)
def test_what_is_not_known_is_not_guessed(
    tmp_path: Path, kind: str, options: Mapping[str, Any]
) -> None:
    assert known_class(write(tmp_path, kind, options), tmp_path) is None


def test_another_release_of_transformers_is_asked_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write(tmp_path, "llama", {})
    for version in ("5.999.0", "5.0.0", "dev"):
        monkeypatch.setattr(tested, "version", lambda _, number=version: number)
        assert known_class(config, tmp_path) is None


@pytest.mark.parametrize("text", ["{", "[]", '{"num_beams": -1}', '{"eos_token_id": "x"}'])
def test_an_odd_file_on_generation_is_left_to_the_class(tmp_path: Path, text: str) -> None:
    config = write(tmp_path, "llama", {})
    (tmp_path / GENERATION).write_text('{"eos_token_id": [1, 2], "transformers_version": "5.0"}')
    assert known_class(config, tmp_path) is not None
    (tmp_path / GENERATION).write_text(text)
    assert known_class(config, tmp_path) is None
