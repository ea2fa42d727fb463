"""Small copies: every kind of block is there, they run, and they are the same each time."""

from __future__ import annotations

from collections import Counter

import torch

from autoround.model.blocks import decoder_blocks
from autoround.model.probe.small_copy import LARGEST, make_small_copy, signature

from ._toys import built, copy_of


def test_every_kind_of_block_is_there_twice() -> None:
    model = built("deepseek_v3", num_hidden_layers=8, first_k_dense_replace=3)
    kinds = Counter(signature(model.get_submodule(path)) for path in decoder_blocks(model))
    assert len(kinds) == 2
    copy = copy_of("deepseek_v3", num_hidden_layers=8, first_k_dense_replace=3)
    assert not copy.uncovered
    assert set(copy.kinds) == set(kinds)
    assert min(Counter(copy.kinds).values()) >= 2


def test_a_published_width_makes_a_small_copy() -> None:
    copy = copy_of("llama", hidden_size=8192, num_attention_heads=64, num_hidden_layers=80)
    assert sum(p.numel() for p in copy.model.parameters()) < LARGEST / 8


def test_copies_are_alike_and_leave_the_generator_alone() -> None:
    before = torch.random.get_rng_state()
    one, other = copy_of("mixtral"), copy_of("mixtral")
    assert torch.equal(torch.random.get_rng_state(), before)
    for left, right in zip(one.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(left, right)


def test_activations_are_finite_and_differ_by_token() -> None:
    copy = copy_of("qwen3_next", num_hidden_layers=8)
    with torch.no_grad():
        logits = copy.model(input_ids=copy.batch(2, 10, seed=1), use_cache=False).logits
    assert bool(logits.isfinite().all())
    assert float(logits.std()) > 1e-3


def test_a_class_that_is_not_the_configs_own_has_no_copy() -> None:
    model = built("llama")

    class Another(type(model)):  # type: ignore[misc]
        pass

    kinds = Counter(signature(model.get_submodule(path)) for path in decoder_blocks(model))
    reason = make_small_copy(Another, model.config, kinds)
    assert isinstance(reason, str)
    assert "LlamaForCausalLM" in reason
