"""The first blocks at a model's own widths, for classes of which no small copy can be made."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

from autoround.model.blocks import decoder_blocks
from autoround.model.probe.block_check import check_blocks
from autoround.model.probe.first_blocks import take_first_blocks
from autoround.model.probe.observe import observe
from autoround.model.probe.small_copy import SmallCopy, signature
from autoround.model.probe.traits import code_traits

from ._toys import SHARING, built

NARROW = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4}


def taken(model: Any) -> SmallCopy | str:
    kinds = Counter(signature(model.get_submodule(path)) for path in decoder_blocks(model))
    return take_first_blocks(type(model), model.config, kinds)


def copy_of(kind: str, **options: Any) -> SmallCopy:
    copy = taken(built(kind, **options))
    assert isinstance(copy, SmallCopy), copy
    return copy


def test_widths_stay_and_blocks_and_vocabulary_are_cut() -> None:
    copy = copy_of("llama", **NARROW, num_hidden_layers=30, vocab_size=128_000)
    assert copy.blocks == ("model.layers.0", "model.layers.1")
    assert copy.model.get_submodule("model.layers.0.mlp.up_proj").weight.shape == (256, 128)
    assert copy.model.get_submodule("lm_head").weight.shape[0] < 1000
    assert not copy.uncovered
    assert check_blocks(copy, observe(copy)).why_not == ""


def test_each_kind_is_there_twice() -> None:
    options = {**NARROW, "moe_intermediate_size": 64, "n_routed_experts": 32, "n_group": 4}
    copy = copy_of("deepseek_v3", **options, num_hidden_layers=9, first_k_dense_replace=3)
    assert len(copy.blocks) == 5
    assert min(Counter(copy.kinds).values()) >= 2
    assert observe(copy).choosing == {"model.layers.3.mlp.gate", "model.layers.4.mlp.gate"}


def test_state_that_blocks_hand_on_is_found() -> None:
    options = {**NARROW, "vocab_size": 512, "vocab_size_per_layer_input": 512, "head_dim": 32}
    copy = copy_of("gemma4_text", **options, global_head_dim=32, **SHARING)
    assert "block" in check_blocks(copy, observe(copy)).why_not


def test_blocks_that_are_too_large_are_not_made() -> None:
    reason = taken(built("llama", hidden_size=16384, num_attention_heads=128, num_hidden_layers=4))
    assert isinstance(reason, str)
    assert "small" in reason


def test_the_callers_config_and_generator_stay() -> None:
    model = built("llama", **NARROW, num_hidden_layers=4)
    before, text = torch.random.get_rng_state(), model.config.to_json_string()
    assert isinstance(taken(model), SmallCopy)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert model.config.to_json_string() == text


@pytest.mark.slow
def test_a_class_that_takes_no_narrow_widths_is_seen_all_the_same() -> None:
    model = built("rwkv")
    traits = code_traits(model, decoder_blocks(model))
    assert traits.known
    assert traits.why_not_by_block == ""
