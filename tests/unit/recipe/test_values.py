"""Values that recipes hold: sizes, texts and names of layers."""

from __future__ import annotations

import pytest

from autoround.recipe.values import (
    SIZE_UNITS,
    as_tuple,
    check_layer,
    check_size,
    check_unicode,
    parse_size,
)


@pytest.mark.parametrize("unit", SIZE_UNITS)
def test_units_are_powers_of_ten_or_of_two(unit: str) -> None:
    base = 1024 if "i" in unit else 1000
    power = "KMG".index(unit[0]) + 1
    assert parse_size(f"3{unit}") == parse_size(f"3 {unit}") == 3 * base**power
    assert parse_size(f"0.5{unit}") == base**power // 2


@pytest.mark.parametrize(
    "size",
    [
        *("", "5", "5gb", "5 TB", "-1GB", "5  GB", "5GB ", "1e3KB", ".5GB", "5.GB"),
        *("0.0GB", "0.0001KB", "9" * 16 + "GB", 0, -3),
    ],
)
def test_what_is_no_size_or_none_at_all_is_refused(size: int | str) -> None:
    for check in (parse_size, check_size):
        with pytest.raises(ValueError, match="not a number and one of the units|at least one byte"):
            check(size)


def test_a_size_is_passed_on_as_it_was_written() -> None:
    assert check_size("5GB") == "5GB"
    assert check_size(7) == 7


def test_half_a_character_is_no_text() -> None:
    assert check_unicode("ünïcode 🦙") == "ünïcode 🦙"
    with pytest.raises(ValueError, match="half a character"):
        check_unicode("a\ud800")


@pytest.mark.parametrize("pattern", ["q_proj", "*.gate", "re:^model", "re:", " a "])
def test_what_may_name_layers_is_passed_on(pattern: str) -> None:
    assert check_layer(pattern) == pattern


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("", "an empty name"),
        ("  ", "an empty name"),
        ("re:(", "not a regular expression"),
        ("re:a{99999999999}", "not a regular expression"),
        ("re:" + "(" * 5000 + ")" * 5000, "not a regular expression"),
    ],
)
def test_what_can_name_none_is_refused(pattern: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_layer(pattern)


def test_lists_become_tuples_and_all_else_stays() -> None:
    assert as_tuple([1, "a"]) == (1, "a")
    for value in ("ab", (1,), {"a": 1}, None):
        assert as_tuple(value) is value
