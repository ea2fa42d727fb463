from __future__ import annotations

from typing import Any

import pytest
import torch

from autoround.errors import FormatError
from autoround.gguf.arch import (
    Target,
    apply,
    architecture,
    restore,
    row_order,
    targets,
    text_names,
)
from autoround.gguf.metadata import metadata

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "vocab_size": 50,
    "rope_theta": 500000.0,
}
SHAPES: dict[str, tuple[int, ...]] = {
    "model.embed_tokens.weight": (50, 32),
    "model.layers.0.self_attn.q_proj.weight": (32, 32),
    "model.layers.0.self_attn.k_proj.weight": (16, 32),
    "model.layers.0.mlp.down_proj.weight": (32, 64),
    "model.norm.weight": (32,),
    "lm_head.weight": (50, 32),
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
    "rope_theta": 500000.0,
}


def values(config: dict[str, Any]) -> dict[str, Any]:
    return {f.key: f.value for f in metadata(config, name="a", file_type="q4_k_m")}


def test_blocks_come_first_and_made_tensors_last() -> None:
    found = targets({**CONFIG, "rope_scaling": LLAMA3}, SHAPES)
    assert [t.name for t in found] == [
        "blk.0.attn_q.weight",
        "blk.0.attn_k.weight",
        "blk.0.ffn_down.weight",
        "token_embd.weight",
        "output_norm.weight",
        "output.weight",
        "rope_freqs.weight",
    ]
    tied = targets({**CONFIG, "tie_word_embeddings": True}, SHAPES)
    assert "output.weight" not in [t.name for t in tied]


def test_rows_of_query_and_key_go_in_pairs() -> None:
    by_name = {t.name: t for t in targets(CONFIG, SHAPES)}
    query, key = by_name["blk.0.attn_q.weight"], by_name["blk.0.attn_k.weight"]
    assert (query.heads, key.heads) == (4, 2)
    order = row_order(query)
    assert order is not None
    # The first head of eight rows: halves 0-3 and 4-7 become neighbours.
    assert order[:8].tolist() == [0, 4, 1, 5, 2, 6, 3, 7]
    assert order[8:16].tolist() == [8, 12, 9, 13, 10, 14, 11, 15]
    other = targets({**CONFIG, "model_type": "qwen2"}, SHAPES)
    assert all(row_order(t) is None for t in other)


@pytest.mark.parametrize(
    ("target", "shape"),
    [
        (Target("a", ("x",), (32, 6), "permute", heads=4), (32, 6)),
        (Target("a", ("x",), (24, 6), "by_head", heads=4), (24, 6)),
        (Target("a", ("x",), (7,), "plus_one"), (7,)),
        (Target("a", ("x",), (5, 3), "transpose"), (3, 5)),
        (Target("a", ("x",), (5, 3)), (5, 3)),
        (Target("a", ("x",), (5,)), (1, 5)),
    ],
)
def test_what_is_done_can_be_undone(target: Target, shape: tuple[int, ...]) -> None:
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    there = apply(target, [tensor])
    assert tuple(there.shape) == target.shape
    torch.testing.assert_close(restore([(target, there)], shape), tensor)


def test_halves_of_fused_experts_come_together_again() -> None:
    shapes = {**SHAPES, "model.layers.0.mlp.experts.gate_up_proj": (3, 20, 32)}
    found = targets({**CONFIG, "model_type": "mixtral"}, shapes)
    halves = [t for t in found if t.name.endswith("_exps.weight")]
    assert [t.name for t in halves] == ["blk.0.ffn_gate_exps.weight", "blk.0.ffn_up_exps.weight"]
    fused = torch.randn(3, 20, 32)
    parts = [(t, apply(t, [fused])) for t in halves]
    assert torch.equal(parts[1][1], fused[:, 10:])
    assert torch.equal(restore(parts, (3, 20, 32)), fused)


def test_what_has_no_place_is_refused_by_name() -> None:
    with pytest.raises(FormatError, match=r"model\.layers\.0\.surprise\.weight"):
        targets(CONFIG, {**SHAPES, "model.layers.0.surprise.weight": (3, 3)})
    with pytest.raises(FormatError, match=r"'bert'.*legal: llama, mistral"):
        architecture({"model_type": "bert"})
    with pytest.raises(FormatError, match="relu"):
        targets({**CONFIG, "hidden_act": "relu"}, SHAPES)


def test_metadata_tells_the_shape() -> None:
    found = values(CONFIG)
    assert found["general.file_type"] == 15
    assert found["llama.context_length"] == 128
    assert found["llama.attention.head_count_kv"] == 2
    assert found["llama.rope.freq_base"] == 500000.0
    assert found["llama.rope.dimension_count"] == 8
    assert "llama.expert_count" not in found
    experts = values({**CONFIG, "num_local_experts": 8, "num_experts_per_tok": 2})
    assert (experts["llama.expert_count"], experts["llama.expert_used_count"]) == (8, 2)
    layers = {"layer_types": ["sliding_attention"]}
    gemma = {**CONFIG, "model_type": "gemma2", "head_dim": 16, "sliding_window": 64, **layers}
    found = values({**gemma, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0})
    assert found["gemma2.attn_logit_softcapping"] == 50.0
    assert found["gemma2.attention.sliding_window"] == 64
    assert found["gemma2.attention.key_length"] == 16


def test_queries_keys_and_values_of_each_head_come_apart() -> None:
    config = {**CONFIG, "model_type": "gpt_neox", "num_key_value_heads": 4}
    shapes = {"gpt_neox.layers.0.attention.query_key_value.weight": (24, 32)}
    (target,) = targets(config, shapes)
    order = row_order(target)
    assert order is not None
    # Four heads, two rows each of query, key and value: the queries of all heads come first.
    assert order[:8].tolist() == [0, 1, 6, 7, 12, 13, 18, 19]
    assert order[8:12].tolist() == [2, 3, 8, 9]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"model_type": "olmoe"}, "num_key_value_heads=2 of a olmoe model"),
        ({"model_type": "qwen3_moe", "norm_topk_prob": False}, "computes with True only"),
        ({"model_type": "phi", "hidden_act": "gelu_new", "qk_layernorm": True}, "qk_layernorm"),
        ({"model_type": "smollm3", "no_rope_layers": [0]}, "no_rope_layers"),
        ({"model_type": "exaone4", "sliding_window": 8}, "windows in those of 64 layers"),
        ({"model_type": "deepseek_v2", "q_lora_rank": None}, "without q_lora_rank"),
        ({"attention_bias": True, "model_type": "qwen3"}, "attention_bias=True"),
    ],
)
def test_what_llama_cpp_computes_otherwise_is_refused(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        targets({**CONFIG, **values}, {})


def test_router_biases_have_names_that_the_package_lacks() -> None:
    experts = {"model_type": "dots1", "num_key_value_heads": 4, "hidden_act": "silu"}
    name = "model.layers.0.mlp.gate.e_score_correction_bias"
    (target,) = targets({**CONFIG, **experts}, {name: (8,)})
    assert target.name == "blk.0.exp_probs_b.bias"
    ernie = "model.layers.0.mlp.gate.moe_statics.e_score_correction_bias"
    (target,) = targets({**CONFIG, "model_type": "ernie4_5_moe"}, {ernie: (1, 8)})
    assert (target.name, target.shape) == ("blk.0.exp_probs_b.bias", (8,))


def test_tensors_of_towers_are_no_part_of_the_text() -> None:
    names = [
        "model.language_model.layers.0.mlp.up_proj.weight",
        "model.vision_tower.encoder.layers.0.mlp.fc1.weight",
        "model.multi_modal_projector.linear_1.weight",
        "lm_head.weight",
    ]
    config = {"model_type": "llava", "text_config": {"model_type": "llama"}}
    assert text_names(config, names) == {
        names[0]: "model.layers.0.mlp.up_proj.weight",
        names[3]: "lm_head.weight",
    }
    assert text_names(CONFIG, names) == {name: name for name in names}
