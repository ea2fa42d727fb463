"""Floating-point types by the names that recipes and configs give them."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from autoround.core.dtypes import DTYPES
from autoround.recipe.schema import Recipe


@pytest.mark.parametrize("name", DTYPES)
def test_a_name_is_that_of_torch(name: str) -> None:
    assert str(DTYPES[name]) == f"torch.{name}"
    assert DTYPES[name].is_floating_point
    assert torch.ones(1, dtype=DTYPES[name]).sum() == 1


@pytest.mark.parametrize(("section", "key"), [("output", "dtype"), ("tuning", "compute_dtype")])
def test_what_a_recipe_may_name_is_there(section: str, key: str) -> None:
    field = Recipe.model_fields[section].annotation
    assert field is not None
    words = set(get_args(field.model_fields[key].annotation)) - {"auto"}
    assert words
    assert words <= set(DTYPES)
