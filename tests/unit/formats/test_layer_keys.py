"""Keys of configs stand for layers by names, ends of names and regexes."""

from __future__ import annotations

import time
from typing import Any

import pytest

from autoround.errors import FormatError
from autoround.formats.layer_keys import LayerKeys, finds, flat_names, table

NAME = "model.layers.1.mlp.up_proj"


def test_a_name_goes_first_then_ends_then_regexes_in_their_order() -> None:
    keys = [
        ".*up_proj",
        "up_proj",
        "mlp.*",
        "mlp.up_proj",
        "layers.1.mlp",
        NAME,
        "other",
        "layers.1",
    ]
    found = LayerKeys(keys, {NAME}).matching(NAME)
    assert found[:3] == [NAME, "mlp.up_proj", "up_proj"]
    assert found[3:] == [".*up_proj", "mlp.*", "layers.1.mlp", "layers.1"]
    # Where the files' layers are not known, a name is a name all the same.
    assert LayerKeys(["lm_head", NAME], ()).matching("lm_head") == ["lm_head"]
    assert LayerKeys(["lm_head", NAME], ()).matching(NAME) == [NAME]


def test_the_name_of_another_layer_is_no_regex() -> None:
    gate = "model.layers.1.mlp.gate"
    assert LayerKeys([gate], {gate}).matching(f"{gate}_proj") == []
    assert LayerKeys(["mlp.gate"], {gate}).matching(f"{gate}_proj") == ["mlp.gate"]
    assert LayerKeys(["layers.1"], ()).matching("model.layers.11.mlp.up_proj") == []


def test_many_names_are_looked_up_and_not_searched_for() -> None:
    names = [f"model.layers.{i}.mlp.experts.{j}.up_proj" for i in range(10) for j in range(100)]
    start = time.perf_counter()
    keys = LayerKeys([f"language.{name}" for name in names], set(names))
    assert all(keys.matching(name) == [] for name in names)
    assert time.perf_counter() - start < 20  # a regex for each name and layer takes longer


def test_what_is_no_regex_is_refused() -> None:
    assert finds("a.c", "xabcx")
    with pytest.raises(FormatError, match=r"'\(' is neither a layer nor a regex"):
        LayerKeys(["("], ()).matching(NAME)


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (None, []),
        ("", []),
        ("a", ["a"]),
        ("a, b,c", ["a", "b", "c"]),
        (["a", ["b", ("c",)]], ["a", "b", "c"]),
    ],
)
def test_lists_of_names_come_in_several_forms(value: Any, names: list[str]) -> None:
    assert flat_names(value, "ignore") == names


def test_what_lists_no_names_is_refused() -> None:
    with pytest.raises(FormatError, match="ignore holds 5, which is no name"):
        flat_names(["a", 5], "ignore")


def test_tables_may_be_missing() -> None:
    assert table({}, "a", of="rules") == table({"a": None}, "a", of="rules") == {}
    assert table({"a": {"b": 1}}, "a", of="rules") == {"b": 1}
    with pytest.raises(FormatError, match="quantization_config.a is not a table of rules"):
        table({"a": ["b"]}, "a", of="rules")
