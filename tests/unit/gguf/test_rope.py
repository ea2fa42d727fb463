"""Rotary parameters of configs; every scaling inside a whole file is in test_arch.py."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any

import pytest
import torch
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS, RopeParameters

from autoround.errors import FormatError
from autoround.gguf.architectures import ARCHITECTURES
from autoround.gguf.rope import KNOWN, SCALINGS, head_width, rope_of, rotary, rotated_width

from ...clients import is_before

LLAMA3: dict[str, Any] = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


CONFIG: dict[str, Any] = {
    "head_dim": 64,
    "num_attention_heads": 4,
    "hidden_size": 256,
    "max_position_embeddings": 512,
}
YARN = {"factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 128}


def fields(config: dict[str, Any], kind: str = "llama") -> dict[str, Any]:
    return {f.key: f.value for f in rotary(config, ARCHITECTURES[kind]).fields}


def yarn(**values: Any) -> dict[str, Any]:
    return {**CONFIG, "rope_parameters": {"rope_type": "yarn", **YARN, **values}}


def transformers_yarn(config: dict[str, Any]) -> tuple[torch.Tensor, float]:
    """Return frequencies and the factor on attention as transformers has them."""
    made = transformers.LlamaConfig(**config)
    frequencies, attention = ROPE_INIT_FUNCTIONS["yarn"](made, torch.device("cpu"))
    return frequencies, attention


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


def test_sliding_attention_has_a_base_of_its_own_where_llama_cpp_reads_one() -> None:
    full = {"rope_type": "default", "rope_theta": 1e6}
    local: dict[str, Any] = {"rope_type": "default", "rope_theta": 20000.0}
    config = {**CONFIG, "rope_parameters": {"full_attention": full, "sliding_attention": local}}
    stated = fields(config, "gemma3_text")
    assert (stated["rope.freq_base"], stated["rope.freq_base_swa"]) == (1e6, 20000.0)
    with pytest.raises(FormatError, match="llama.cpp has one for all"):
        rotary(config, ARCHITECTURES["llama"])
    local |= {"rope_type": "linear", "factor": 2.0}
    with pytest.raises(FormatError, match="plain rotary embedding there"):
        rotary(config, ARCHITECTURES["gemma3_text"])


def test_widths_of_a_head() -> None:
    assert head_width({"num_attention_heads": 4, "hidden_size": 64}) == 16
    assert head_width({"head_dim": 24, "num_attention_heads": 4, "hidden_size": 64}) == 24
    partial = {"head_dim": 16, "rope_parameters": {"partial_rotary_factor": 0.5}}
    assert rotated_width(partial) == 8


def test_llama3_divides_long_waves_only() -> None:
    config = {"head_dim": 16, "rope_parameters": LLAMA3}
    (factors,) = rotary(config, ARCHITECTURES["llama"]).tensors.values()
    waves = [2 * math.pi * 10000.0 ** (i / 16) for i in range(0, 16, 2)]
    for wave, factor in zip(waves, factors, strict=True):
        if wave < 64 / 4:
            assert factor == 1.0
        elif wave > 64:
            assert factor == 8.0
        else:
            assert 1.0 < factor < 8.0
    assert (factors[0], factors[-1]) == (1.0, 8.0)


def test_llama3_factors_are_those_of_transformers() -> None:
    config = {**CONFIG, "rope_parameters": LLAMA3}
    made = transformers.LlamaConfig(**config)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](made, torch.device("cpu"))
    ours = torch.tensor(rotary(config, ARCHITECTURES["llama"]).tensors["rope_freqs"])
    plain = 1.0 / (10000.0 ** (torch.arange(0, 64, 2).float() / 64))
    torch.testing.assert_close(plain / ours, scaled, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    "values",
    [
        {"attention_factor": 1.5},
        {"mscale": 0.7, "mscale_all_dim": 1.0},
        {"mscale": 1.0, "mscale_all_dim": 1.0},
        {},
    ],
)
def test_what_yarn_multiplies_attention_with_is_a_ratio_to_what_llama_cpp_does(
    values: dict[str, float],
) -> None:
    _, wanted = transformers_yarn(yarn(**values))
    stated = fields(yarn(**values))
    made = stated.get("rope.scaling.attn_factor", 1.0) * (1 + 0.1 * math.log(4.0))
    assert made == pytest.approx(wanted, rel=1e-6)
    assert stated["rope.scaling.type"] == "yarn"
    assert ("rope.scaling.attn_factor" in stated) is bool(values)


@pytest.mark.parametrize(
    "values",
    [
        {"beta_fast": 20.0, "beta_slow": 2.0},
        {"truncate": False},
        {"beta_fast": 40.0, "mscale": 0.5},
    ],
)
def test_what_yarn_has_no_key_for_goes_into_frequencies_or_is_refused(
    values: dict[str, Any],
) -> None:
    config = yarn(**values)
    frequencies, wanted = transformers_yarn(config)
    written = rotary(config, ARCHITECTURES["llama"])
    plain = 1.0 / (10000.0 ** (torch.arange(0, 64, 2).float() / 64))
    ours = plain / torch.tensor(written.tensors["rope_freqs"])
    torch.testing.assert_close(ours, frequencies, rtol=1e-5, atol=0)
    stated = {f.key: f.value for f in written.fields}
    assert stated["rope.scaling.attn_factor"] == pytest.approx(wanted)
    # Scaled twice otherwise.
    assert "rope.scaling.type" not in stated
    with pytest.raises(FormatError, match="of a qwen2 model is not computed"):
        rotary(config, ARCHITECTURES["qwen2"])


@pytest.mark.parametrize("kind", [k for k in SCALINGS if k != "default"])
def test_a_key_that_nobody_knows_is_refused(kind: str) -> None:
    keys = {key: 2.0 for key in SCALINGS[kind]}
    with pytest.raises(FormatError, match=rf"surprise=1.5 of the rope scaling '{kind}'"):
        rope_of({**CONFIG, "rope_parameters": {"rope_type": kind, **keys, "surprise": 1.5}})


def test_every_key_of_transformers_is_known_or_refused() -> None:
    # A key that a later transformers adds must be looked at before it is let through.
    # An older one has no name for those of images.
    assert set(RopeParameters.__annotations__) - KNOWN <= {"mrope_section"}


def test_a_part_of_a_head_turns_where_llama_cpp_does_so() -> None:
    rope = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
    config = {**CONFIG, "rope_parameters": rope}
    assert fields(config, "phi3")["rope.dimension_count"] == 32
    with pytest.raises(FormatError, match="turns 32 of 64 dimensions"):
        rotary(config, ARCHITECTURES["llama"])


def test_longrope_takes_the_factor_that_is_stated() -> None:
    rope = {
        "rope_type": "longrope",
        "long_factor": [2.0] * 32,
        "short_factor": [1.0] * 32,
        "original_max_position_embeddings": 128,
    }
    config = {**CONFIG, "rope_parameters": rope}
    by_ratio = fields(config, "phi3")["rope.scaling.attn_factor"]
    assert by_ratio == pytest.approx(math.sqrt(1 + math.log(4) / math.log(128)))
    config["rope_parameters"] = {**rope, "factor": 8.0}
    stated = fields(config, "phi3")["rope.scaling.attn_factor"]
    assert stated == pytest.approx(math.sqrt(1 + math.log(8) / math.log(128)))
    assert "above 128 tokens" in rotary(config, ARCHITECTURES["phi3"]).notes[0]
    with pytest.raises(FormatError, match="'longrope' of a qwen2 model"):
        rotary(config, ARCHITECTURES["qwen2"])


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"attention_factor": 1.5},
        {"mscale": 0.7, "mscale_all_dim": 0.7},
        {"mscale_all_dim": 1.0},
    ],
)
def test_attention_with_a_latent_has_two_scales_from_two_entries(values: dict[str, float]) -> None:
    config = {**yarn(**values), "qk_rope_head_dim": 64}
    _, wanted = transformers_yarn(yarn(**values))
    stated = fields(config, "deepseek_v3")
    growth = 0.1 * math.log(4.0)
    factor = stated["rope.scaling.attn_factor"]
    multiplier = 10 * stated.get("rope.scaling.yarn_log_multiplier", 0.0)
    # What llama.cpp makes of them: without a multiplier it has the scale of the factor by itself.
    queries = factor if multiplier else factor * (1 + growth)
    assert queries == pytest.approx(wanted)
    softmax = 1 + growth * values.get("mscale_all_dim", 0.0)
    assert queries * (1 + growth * multiplier) == pytest.approx(softmax)


def test_linear_scaling_of_attention_with_a_latent_is_refused() -> None:
    rope = {"rope_type": "linear", "factor": 2.0}
    with pytest.raises(FormatError, match="'linear' of a deepseek2 model"):
        rotary(
            {**CONFIG, "qk_rope_head_dim": 32, "rope_parameters": rope},
            ARCHITECTURES["deepseek_v2"],
        )


def test_layers_with_a_window_may_be_those_without_scaling() -> None:
    full = {"rope_type": "yarn", **YARN}
    local = {"rope_type": "default", "rope_theta": 1e4}
    config = {**CONFIG, "rope_parameters": {"full_attention": full, "sliding_attention": local}}
    assert "rope.freq_base_swa" not in fields(config, "olmo3")
    local["rope_theta"] = 5e5
    with pytest.raises(FormatError, match="takes that of the other layers there, without scaling"):
        rotary(config, ARCHITECTURES["olmo3"])


def test_beside_kinds_of_layers_transformers_reads_truncate_alone() -> None:
    full = {"rope_type": "yarn", **YARN, "truncate": False}
    local = {"rope_type": "default", "rope_theta": 1e4}
    kinds = {"full_attention": full, "sliding_attention": local}
    config = {**CONFIG, "rope_parameters": kinds, "layer_types": list(kinds)}
    assert "truncate" not in rope_of(config)
    made = transformers.Olmo3Config(**deepcopy(config), num_hidden_layers=2)
    plain, _ = ROPE_INIT_FUNCTIONS["yarn"](made, torch.device("cpu"), layer_type="full_attention")
    outer = {**config, "rope_parameters": {**kinds, "truncate": False}}
    assert rope_of(outer)["truncate"] is False
    with pytest.raises(FormatError, match="surprise=1.5"):
        rope_of({**CONFIG, "rope_parameters": {**kinds, "surprise": 1.5}})
    if is_before("transformers", "5.23"):
        pytest.skip("this transformers does not read such a config")
    made = transformers.Olmo3Config(**deepcopy(outer), num_hidden_layers=2)
    other, _ = ROPE_INIT_FUNCTIONS["yarn"](made, torch.device("cpu"), layer_type="full_attention")
    assert not torch.equal(plain, other)
