"""Schemes as configs write them."""

from __future__ import annotations

from typing import Any

import pytest

from autoround.errors import FormatError
from autoround.formats.schemes import group_key, most_common, read_scheme
from autoround.types import LEGAL_BITS, Scheme

A, B = Scheme(4, 32, True), Scheme(8, 32, True)


def test_the_scheme_of_most_layers_or_the_first_of_equals() -> None:
    assert most_common([A, B, B]) == B
    assert most_common([A, B]) == A
    assert most_common([B, A]) == B


@pytest.mark.parametrize(("size", "key"), [(32, 32), (-1, -1), (0, -1)])
def test_a_scale_of_the_tensor_is_one_of_each_channel_in_configs(size: int, key: int) -> None:
    assert group_key(Scheme(4, size, True)) == key


@pytest.mark.parametrize("bits", LEGAL_BITS)
def test_schemes_are_read_under_the_names_of_either_program(bits: int) -> None:
    for size in (1, 128, -1):
        wanted = Scheme(bits, size, False)
        assert read_scheme({"bits": bits, "group_size": size, "sym": False}, "here") == wanted
        old = {"w_bit": bits, "q_group_size": size, "sym": False}
        assert read_scheme(old, "here") == wanted
    # Where nothing is said, GPTQ's programs mean a symmetric grid.
    assert read_scheme({"bits": bits, "group_size": 32}, "here").sym


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"bits": 1}, "bits of layer a is 1; legal: 2, 3"),
        ({"bits": "four"}, "bits of layer a is 'four'"),
        ({"bits": 16}, "bits of layer a is 16"),
        ({"bits": None}, "bits of layer a is None"),
        ({"bits": 4.5}, "bits of layer a is 4.5"),
        ({"group_size": -2}, "group_size of layer a is -2"),
        ({"group_size": "many"}, "group_size of layer a is 'many'"),
        ({"sym": "maybe"}, "sym of layer a is 'maybe', which is neither true nor false"),
    ],
)
def test_values_that_are_not_legal_are_told_with_their_place(
    keys: dict[str, Any], words: str
) -> None:
    with pytest.raises(FormatError, match=words):
        read_scheme({"bits": 4, "group_size": 32, **keys}, "of layer a")


def test_values_are_read_for_what_they_mean() -> None:
    for keys in ({"bits": "4", "group_size": 32.0}, {"bits": 4.0, "group_size": "32", "sym": 1}):
        assert read_scheme(keys, "here") == Scheme(4, 32, True)
    assert read_scheme({"bits": 4, "group_size": None, "sym": "False"}, "") == Scheme(4, -1, False)
    assert read_scheme({"bits": None, "w_bit": 4, "q_group_size": 32}, "") == Scheme(4, 32, True)
