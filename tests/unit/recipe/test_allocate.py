"""The section of a recipe that leaves bits to a budget."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from autoround.core.grids.gguf_types import GGUF_TYPES
from autoround.recipe.allocate import GGUF_KINDS, AllocateOptions, parse_option
from autoround.types import LEGAL_BITS, Scheme

BASE = Scheme(4, 128, False)


@pytest.mark.parametrize("bits", LEGAL_BITS)
def test_what_an_option_leaves_open_is_the_schemes(bits: int) -> None:
    assert (
        parse_option(f"W{bits}", BASE) == parse_option(f"w{bits}", BASE) == Scheme(bits, 128, False)
    )
    assert parse_option(f"W{bits}g64", BASE) == Scheme(bits, 64, False)
    assert parse_option(f"W{bits}channel", BASE) == Scheme(bits, -1, False)
    assert parse_option(f"W{bits}sym", BASE) == Scheme(bits, 128, True)
    assert parse_option(f"W{bits}g32asym", Scheme(4, 128, True)) == Scheme(bits, 32, False)


def test_sixteen_bits_keep_a_layer_and_types_of_gguf_are_themselves() -> None:
    assert parse_option("16", BASE) is None
    assert set(GGUF_KINDS) == set(GGUF_TYPES)
    assert all(parse_option(kind, BASE) == kind for kind in GGUF_KINDS)


@pytest.mark.parametrize(
    "text", ["", "W", "W1", "W9", "W4g0", "W4g", "W4 g32", "4", "f16", "W4symsym"]
)
def test_what_is_no_option_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no option"):
        parse_option(text, BASE)


def test_a_number_may_stand_for_sixteen_bits() -> None:
    assert AllocateOptions.model_validate({"options": ["W2", 16]}).options == ("W2", "16")


@pytest.mark.parametrize(
    "values",
    [
        {"options": ["W4"]},
        {"options": ["W4", 8]},
        {"options": ["W4", True]},
        {"avg_bits": 0.0},
        {"avg_bits": 16.5},
        {"target_size": "5 bananas"},
        {"max_kl": float("inf")},
        {"lm_head": 1},
        {"nsamples": 0},
        {"method": "guess"},
        {"unknown": 1},
    ],
)
def test_values_that_are_not_legal_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        AllocateOptions.model_validate(values)


def test_budgets_are_those_that_are_given_in_bits_bytes_or_nats() -> None:
    assert AllocateOptions().budgets == {}
    every = AllocateOptions(avg_bits=4.5, target_size="2KB", max_kl=0.1)
    assert every.budgets == {"avg_bits": 4.5, "target_size": 2000, "max_kl": 0.1}
    assert AllocateOptions(target_size=77).budgets == {"target_size": 77}
