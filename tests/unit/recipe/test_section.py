"""What the recipe and its sections have in common: frozen, strict, no unknown keys."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from autoround.recipe.section import Section


class Own(Section):
    count: int = 3
    names: tuple[str, ...] = ()


class Wrong(Section):
    count: int = "three"  # type: ignore[assignment]


@pytest.mark.parametrize(
    "values", [{"count": "3"}, {"count": 3.0}, {"count": True}, {"cuont": 3}, {"names": ["a"]}]
)
def test_values_are_taken_as_they_are_or_not_at_all(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Own.model_validate(values)


def test_a_section_is_a_value() -> None:
    one = Own(count=4)
    assert one == Own(count=4)
    assert hash(one) == hash(Own(count=4))
    with pytest.raises(ValidationError, match="frozen"):
        one.count = 5


def test_defaults_are_checked_like_all_else() -> None:
    with pytest.raises(ValidationError, match="count"):
        Wrong()
