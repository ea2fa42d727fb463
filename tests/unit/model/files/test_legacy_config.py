"""Names that older programs know, beside those of transformers 5, which must not mind them."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import AutoConfig

from autoround.model.files.legacy_config import with_legacy_keys

from ....tiny import COMMON, KINDS

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LINEAR = {"rope_type": "linear", "rope_theta": 2e4, "factor": 4.0}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 3e4,
    "short_factor": [1.0] * 8,
    "long_factor": [2.0] * 8,
}
LAYERS = {
    "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}


def written(kind: str, **values: Any) -> dict[str, Any]:
    """Return a config as it stands in a file."""
    config: dict[str, Any] = AutoConfig.for_model(
        kind, **{**KINDS[kind].options, **values}
    ).to_dict()
    return {key: value for key, value in config.items() if key != "transformers_version"}


CASES = [
    *((kind, {}) for kind in KINDS),
    ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e5}}),
    ("llama", {"rope_parameters": LLAMA3}),
    ("qwen2", {"rope_parameters": LINEAR}),
    ("phi3", {"rope_parameters": LONG, "original_max_position_embeddings": 32}),
    ("gemma3_text", {"rope_parameters": LAYERS}),
]


@pytest.mark.parametrize(("kind", "values"), CASES)
def test_transformers_reads_the_same_config(kind: str, values: dict[str, Any]) -> None:
    config = written(kind, **values)
    more = with_legacy_keys(config)
    assert {key: more[key] for key in config} == config
    again = AutoConfig.for_model(**more).to_dict()
    plain = AutoConfig.for_model(**config).to_dict()
    assert again.get("rope_parameters") == plain.get("rope_parameters")


def test_the_older_names_say_the_same() -> None:
    plain = with_legacy_keys({"rope_parameters": {"rope_type": "default", "rope_theta": 1e5}})
    assert plain["rope_theta"] == 1e5
    assert "rope_scaling" not in plain
    scaled = with_legacy_keys({"rope_parameters": LLAMA3})
    assert scaled["rope_theta"] == 5e5
    assert scaled["rope_scaling"] == {k: v for k, v in LLAMA3.items() if k != "rope_theta"}
    layers = with_legacy_keys({"rope_parameters": LAYERS})
    assert (layers["rope_theta"], layers["rope_local_base_freq"]) == (1e6, 1e4)
    assert layers["rope_scaling"] == {"rope_type": "linear", "factor": 8.0}


def test_what_is_there_stays() -> None:
    held = {"rope_theta": 7.0, "rope_parameters": {"rope_theta": 1e5, "rope_type": "default"}}
    assert with_legacy_keys(held) == held
    for config in ({}, {"rope_parameters": None}, {"rope_parameters": {}}, dict(COMMON)):
        assert with_legacy_keys(config) == config
