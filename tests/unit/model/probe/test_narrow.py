"""Narrow configs: what shrinks, what stays, and that the given config stays as it is."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import AutoConfig

from autoround.model.probe.narrow import EXPERTS, VOCABULARY, layer_count, narrow_config


def test_heads_and_widths_shrink_by_one_number_and_heads_stay_as_wide() -> None:
    config = AutoConfig.for_model(
        "llama", hidden_size=4096, num_attention_heads=32, num_key_value_heads=8
    )
    small = narrow_config(config, 2, widths=True)
    assert small.hidden_size // small.num_attention_heads == 128
    assert small.num_attention_heads < 32
    assert small.num_attention_heads % small.num_key_value_heads == 0
    assert (small.num_hidden_layers, small.vocab_size) == (2, VOCABULARY)
    assert (config.num_hidden_layers, config.hidden_size) == (32, 4096)


def test_without_widths_only_counts_shrink() -> None:
    config = AutoConfig.for_model("mixtral", num_local_experts=64)
    small = narrow_config(config, 3, widths=False)
    assert (small.hidden_size, small.num_attention_heads) == (4096, 32)
    assert (small.num_local_experts, small.num_hidden_layers) == (EXPERTS, 3)


def test_lists_of_layers_are_cut_where_the_layers_are() -> None:
    config = AutoConfig.for_model("gemma3_text", num_hidden_layers=12)
    small = narrow_config(config, 7, widths=True)
    assert small.layer_types == config.layer_types[:7]


def test_special_tokens_stay_within_the_vocabulary() -> None:
    config = AutoConfig.for_model(
        "llama", vocab_size=128256, eos_token_id=[128001, 128009], pad_token_id=128004
    )
    small = narrow_config(config, 2, widths=True)
    assert small.pad_token_id < VOCABULARY
    assert all(token < VOCABULARY for token in small.eos_token_id)


@pytest.mark.parametrize(
    ("kind", "options", "count"),
    [("gpt2", {"n_layer": 7}, 7), ("llava", {}, 32), ("mpt", {"n_layers": 5}, 5)],
)
def test_layers_are_counted_under_any_name(kind: str, options: dict[str, Any], count: int) -> None:
    assert layer_count(AutoConfig.for_model(kind, **options)) == count


def test_a_tower_keeps_two_layers() -> None:
    small = narrow_config(AutoConfig.for_model("llava"), 2, widths=True)
    assert small.vision_config.num_hidden_layers == 2
    assert small.text_config.num_hidden_layers == 2


def test_a_model_that_is_narrow_stays_so() -> None:
    config = AutoConfig.for_model(
        "llama", hidden_size=64, num_attention_heads=4, num_key_value_heads=2, vocab_size=100
    )
    small = narrow_config(config, 2, widths=True)
    assert (small.hidden_size, small.num_attention_heads, small.vocab_size) == (64, 4, 100)


def test_attention_is_one_that_a_cpu_computes() -> None:
    config = AutoConfig.for_model("llama")
    config._attn_implementation = "flash_attention_2"
    assert narrow_config(config, 2, widths=True)._attn_implementation == "sdpa"
    config._attn_implementation = "eager"
    assert narrow_config(config, 2, widths=True)._attn_implementation == "eager"
