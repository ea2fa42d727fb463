from __future__ import annotations

import pytest

from autoround.recipe.auto_round_words import (
    RECIPE_NAMES,
    read_head_bits,
    read_ignored,
    read_layer,
    read_layer_rules,
    read_options,
    read_scheme,
)
from autoround.recipe.find import builtin_names, find_recipe


@pytest.mark.parametrize(
    ("text", "bits", "group"),
    [("W4A16", 4, 128), ("w2a16", 2, 128), ("W8A16", 8, 128), ("W3A16G64", 3, 64)],
)
def test_schemes_by_name(text: str, bits: int, group: int) -> None:
    assert read_scheme(text) == {"bits": bits, "group_size": group, "sym": True}


@pytest.mark.parametrize("text", ["W9A16", "W4A8", "MXFP4", "NVFP4", "FP8_STATIC", "", "W4A16G0"])
def test_schemes_that_are_not_here_name_those_that_are(text: str) -> None:
    with pytest.raises(ValueError, match="expected W2A16 to W8A16"):
        read_scheme(text)


def test_a_type_of_gguf_is_a_format() -> None:
    with pytest.raises(ValueError, match=r"--format gguf:q4_k_m"):
        read_scheme("GGUF:Q4_K_M")


@pytest.mark.parametrize(
    ("described", "keys"),
    [
        ({"bits": 8}, {"bits": 8}),
        ({"bits": 8, "data_type": "int", "act_bits": 16}, {"bits": 8}),
        ({"bits": 2, "group_size": 32, "sym": False}, {"bits": 2, "group_size": 32, "sym": False}),
        # A layer that is kept has the other keys of the model.
        ({"bits": 16, "group_size": 128, "sym": True, "data_type": "float"}, {"bits": 16}),
        ("W3A16", {"bits": 3, "group_size": 128, "sym": True}),
        ({"scheme": "W3A16", "sym": False}, {"bits": 3, "group_size": 128, "sym": False}),
    ],
)
def test_a_described_layer(described: object, keys: dict[str, object]) -> None:
    assert read_layer(described) == keys


@pytest.mark.parametrize(
    ("described", "part"),
    [
        ({"bits": 4, "act_bits": 8}, "act_bits is 8, and here it can only be 16"),
        ({"bits": 4, "data_type": "fp"}, "data_type is 'fp'"),
        ({"bitz": 4}, "unknown key 'bitz'; legal: bits, group_size, sym"),
        ({}, "it says nothing"),
        (4, "expected a mapping"),
    ],
)
def test_a_described_layer_that_cannot_be(described: object, part: str) -> None:
    with pytest.raises(ValueError, match=part):
        read_layer(described)


@pytest.mark.parametrize(
    "text",
    [
        '{"a.q_proj": {"bits": 8}, ".*mlp.*": {"bits": 2, "sym": false}}',
        "{'a.q_proj': {'bits': 8}, '.*mlp.*': {'bits': 2, 'sym': false}}",
        "{a.q_proj:{bits:8},.*mlp.*:{bits:2,sym:False}}",
    ],
)
def test_a_table_of_layers_as_it_is_typed(text: str) -> None:
    assert read_layer_rules(text) == [
        {"match": "a.q_proj", "bits": 8},
        {"match": "re:.*mlp.*", "bits": 2, "sym": False},
    ]


@pytest.mark.parametrize("text", ["a=8", "{a: {bits: 8}", "[1]", "8"])
def test_what_is_no_table_of_layers(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        read_layer_rules(text)


def test_ignored_layers() -> None:
    assert read_ignored("lm_head, mlp.gate,*.x") == [
        "lm_head",
        r"re:(^|\.)mlp\.gate(\.|$)",
        "*.x",
    ]
    assert read_ignored(["re:a$"]) == ["re:a$"]
    with pytest.raises(ValueError, match="expected names of layers"):
        read_ignored(4)


def test_the_head_has_the_bits_of_the_scheme() -> None:
    assert (read_head_bits(True), read_head_bits(False)) == ("auto", 16)
    with pytest.raises(ValueError, match="expected true or false; got 4"):
        read_head_bits(4)


def test_options_of_a_budget() -> None:
    assert read_options("W2A16, w4a16g64,W3,16,q4_k") == ["W2", "W4g64", "W3", "16", "q4_k"]
    assert read_options(["W2", "W4"]) == ["W2", "W4"]
    with pytest.raises(ValueError, match="expected a text with commas"):
        read_options(3)


def test_names_of_programs_are_recipes() -> None:
    assert set(RECIPE_NAMES.values()) <= set(builtin_names())
    assert find_recipe("auto-round-light") == find_recipe("light")
