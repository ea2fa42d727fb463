"""JSON that every reader takes: without NaN and infinity."""

from __future__ import annotations

import json
import math

import pytest

from autoround.storage.json_text import to_json


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_json_has_no_word_for_becomes_null_at_any_depth(value: float) -> None:
    assert json.loads(to_json(value)) is None
    nested = {"a": [1.5, (value, {"b": value})], "c": value}
    assert json.loads(to_json(nested)) == {"a": [1.5, [None, {"b": None}]], "c": None}
    assert nested["c"] is value


def test_all_else_stays_as_it_is() -> None:
    value: dict[str, object] = {
        "i": 1,
        "f": 0.1,
        "big": 1e308,
        "t": True,
        "n": None,
        "s": "NaN",
        "l": [],
        "d": {},
    }
    assert json.loads(to_json(value)) == value


def test_indent_is_that_of_json() -> None:
    assert to_json({"a": [1]}) == '{"a": [1]}'
    assert to_json({"a": [1]}, indent=2) == '{\n  "a": [\n    1\n  ]\n}'


def test_what_is_no_json_value_is_refused() -> None:
    with pytest.raises(TypeError):
        to_json({"a": object()})
