"""Random weights: the same each time, of a size that code can compute with, towers left out."""

from __future__ import annotations

import torch

from autoround.model.blocks import decoder_blocks
from autoround.model.probe.random_weights import fill, fixed_seed, size

from ._toys import built


def filled(kind: str, **options: object) -> torch.nn.Module:
    model: torch.nn.Module = built(kind, **options)
    fill(model, tuple(decoder_blocks(model)))
    return model


SMALL = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 256,
}


def test_weights_are_the_same_each_time_and_nothing_stays_on_meta() -> None:
    one, other = filled("llama", **SMALL), filled("llama", **SMALL)
    assert all(p.device.type == "cpu" for p in one.parameters())
    for left, right in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(left, right)


def test_matrices_keep_the_size_of_what_they_multiply_and_norms_are_near_one() -> None:
    model = filled("llama", **SMALL)
    up = model.get_submodule("model.layers.0.mlp.up_proj").weight
    assert abs(float(up.std()) * 64**0.5 - 1) < 0.1
    norm = model.get_submodule("model.norm").weight
    assert abs(float(norm.mean()) - 1) < 0.1
    assert float(norm.std()) > 0.01


def test_tied_weights_are_one() -> None:
    model = filled("llama", **SMALL, tie_word_embeddings=True)
    head, tokens = model.get_submodule("lm_head"), model.get_submodule("model.embed_tokens")
    assert head.weight is tokens.weight


def test_the_seed_is_fixed_inside_and_left_alone_outside() -> None:
    before = torch.random.get_rng_state()
    with fixed_seed():
        one = torch.rand(3)
    with fixed_seed():
        assert torch.equal(torch.rand(3), one)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_towers_are_not_counted() -> None:
    model = built("llava")
    blocks = tuple(decoder_blocks(model))
    everything = sum(p.numel() for p in model.parameters())
    tower = sum(p.numel() for n, p in model.named_parameters() if "vision_tower" in n)
    assert tower > 0
    assert size(model, blocks) <= everything - tower
