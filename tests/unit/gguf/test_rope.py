"""Rotary parameters of configs; every scaling inside a whole file is in test_arch.py."""

from __future__ import annotations

import math
from typing import Any

import pytest

from autoround.errors import FormatError
from autoround.gguf.rope import head_width, rope_factors, rope_of, rotated_width

LLAMA3: dict[str, Any] = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@pytest.mark.parametrize(
    "config",
    [
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}},
        {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_theta": 5e5},
    ],
)
def test_parameters_are_read_from_new_and_old_keys(config: dict[str, Any]) -> None:
    rope = rope_of(config)
    assert (rope["rope_type"], rope["factor"], rope["rope_theta"]) == ("linear", 2.0, 5e5)


def test_a_config_without_rope_is_plain() -> None:
    assert rope_of({}) == {"rope_theta": 10000.0, "rope_type": "default"}


def test_an_unknown_scaling_is_refused_with_the_legal_ones() -> None:
    with pytest.raises(FormatError, match=r"'dynamic'.*legal: default, linear"):
        rope_of({"rope_parameters": {"rope_type": "dynamic"}})


def test_sliding_attention_must_be_plain() -> None:
    full = {"rope_type": "default", "rope_theta": 1e6}
    config = {"rope_parameters": {"full_attention": full, "sliding_attention": dict(full)}}
    with pytest.raises(FormatError, match="sliding attention"):
        rope_of(config)
    config["rope_parameters"]["sliding_attention"] = {"rope_theta": 10000.0}
    assert rope_of(config)["rope_theta"] == 1e6


def test_widths_of_a_head() -> None:
    assert head_width({"num_attention_heads": 4, "hidden_size": 64}) == 16
    assert head_width({"head_dim": 24, "num_attention_heads": 4, "hidden_size": 64}) == 24
    partial = {"head_dim": 16, "rope_parameters": {"partial_rotary_factor": 0.5}}
    assert rotated_width(partial) == 8


def test_llama3_divides_long_waves_only() -> None:
    config = {"head_dim": 16, "rope_parameters": LLAMA3}
    (factors,) = rope_factors(config, "llama").values()
    waves = [2 * math.pi * 10000.0 ** (i / 16) for i in range(0, 16, 2)]
    for wave, factor in zip(waves, factors, strict=True):
        if wave < 64 / 4:
            assert factor == 1.0
        elif wave > 64:
            assert factor == 8.0
        else:
            assert 1.0 < factor < 8.0
    assert (factors[0], factors[-1]) == (1.0, 8.0)
