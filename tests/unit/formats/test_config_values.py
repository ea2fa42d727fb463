"""Values of configs are read for what they mean."""

from __future__ import annotations

from typing import Any

import pytest

from autoround.errors import FormatError
from autoround.formats.config_values import read_bits, read_flag, read_group_size, read_whole
from autoround.types import LEGAL_BITS


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (4, 4),
        (4.0, 4),
        ("4", 4),
        (" 4.0 ", 4),
        ("-1", -1),
        (-1.0, -1),
        (4.5, None),
        ("4.5", None),
        ("four", None),
        ("", None),
        (True, None),
        (None, None),
        ([4], None),
        (float("nan"), None),
        (float("inf"), None),
        ("٤", None),
    ],
)
def test_whole_numbers_come_in_several_types(value: object, number: int | None) -> None:
    assert read_whole(value) == number


@pytest.mark.parametrize("value", [True, "true", "True", " TRUE ", 1, "1", "yes"])
def test_truth_comes_in_several_types(value: Any) -> None:
    assert read_flag(value, key="sym", where="here", missing=False)


@pytest.mark.parametrize("value", [False, "false", "False", 0, "0", "no"])
def test_untruth_too(value: Any) -> None:
    assert not read_flag(value, key="sym", where="here", missing=True)


def test_null_means_what_is_missing() -> None:
    assert read_flag(None, key="sym", where="here", missing=True)
    assert not read_flag(None, key="sym", where="here", missing=False)


@pytest.mark.parametrize("value", ["maybe", 2, "", [], {}, 1.0])
def test_what_is_neither_is_refused(value: Any) -> None:
    with pytest.raises(FormatError, match="sym here is .* which is neither true nor false"):
        read_flag(value, key="sym", where="here", missing=True)


def test_bits_are_legal_ones_or_those_of_floats() -> None:
    assert [read_bits(str(bits), where="here") for bits in LEGAL_BITS] == list(LEGAL_BITS)
    assert read_bits(16.0, where="here") == 16
    for value in (1, 9, 15, None, "many"):
        with pytest.raises(FormatError, match=r"bits here is .*; legal: 2, 3"):
            read_bits(value, where="here")


def test_groups_are_of_one_and_more_or_of_a_channel_or_a_tensor() -> None:
    values = (128, "128", 128.0, -1, None, 0)
    assert [read_group_size(v, where="here") for v in values] == [128, 128, 128, -1, -1, 0]
    for value in (-2, "all", 0.5, True):
        with pytest.raises(FormatError, match=r"group_size here is .*; legal: 1 and more"):
            read_group_size(value, where="here")
