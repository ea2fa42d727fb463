"""Sizes that no model has are refused; those of every published kind are taken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import CONFIG_MAPPING

from autoround.errors import ModelError
from autoround.model.files.config_limits import DEEPEST, MOST_ENTRIES, check_limits
from autoround.model.files.locate import read_config


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"num_labels": 10**9}, "num_labels"),
        ({"num_hidden_layers": 10**5}, "num_hidden_layers"),
        ({"n_layer": 8, "text_config": {"num_hidden_layers": 10**6}}, "text_config.num_hidden"),
        ({"vision_config": {"depth": 10**6}}, "vision_config.depth"),
        ({"num_local_experts": 10**7}, "num_local_experts"),
        ({"num_attention_heads": 10**7}, "num_attention_heads"),
        ({"max_position_embeddings": 10**13}, "max_position_embeddings"),
        ({"vocab_size": 10**12}, "vocab_size"),
        ({"hidden_size": int("9" * 400)}, "hidden_size"),
        ({"layers": [{"num_blocks": 10**8}]}, "layers.num_blocks"),
    ],
)
def test_sizes_that_no_model_has_are_refused(config: dict[str, Any], key: str) -> None:
    with pytest.raises(ModelError, match=rf"config.json: {key}.* is (\d+|a number of)"):
        check_limits(config, "config.json")


def test_objects_without_end_are_refused() -> None:
    deep: dict[str, Any] = {}
    for _ in range(DEEPEST + 2):
        deep = {"a": deep}
    with pytest.raises(ModelError, match="objects deep"):
        check_limits(deep, "config.json")
    with pytest.raises(ModelError, match="entries"):
        check_limits({"id2label": dict.fromkeys(range(MOST_ENTRIES + 1), "x")}, "config.json")


def test_defaults_of_every_class_are_taken() -> None:
    seen, refused = 0, {}
    for kind in CONFIG_MAPPING:
        try:
            values = json.loads(CONFIG_MAPPING[kind]().to_json_string(use_diff=False))
        except Exception as error:
            refused[kind] = error
            continue
        seen += 1
        check_limits(values, f"default of {kind}")
    # Some classes have no defaults.
    assert len(refused) < seen / 10
    assert seen > 300


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5) | st.integers(0, 4096),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
        max_leaves=20,
    )
)
def test_whatever_else_stands_in_a_config_is_none_of_its_business(value: Any) -> None:
    check_limits({"a": value}, "config.json")


def test_configs_are_held_to_them_when_they_are_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"num_labels": 10**9}))
    with pytest.raises(ModelError, match="num_labels is 1000000000"):
        read_config(tmp_path)
