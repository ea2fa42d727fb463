"""Classes of transformers that differ most, taken through as docs/model-classes.md has them all."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoround.tested import NEWEST_TRANSFORMERS

from ..classes import class_names, go_through, go_through_all
from ..clients import is_before

PAGE = Path(__file__).parents[2] / "docs" / "model-classes.md"
#: A weight that is read, stacks of different counts, state that blocks share, several streams.
FAST = {
    "jamba": "works",
    "longcat_flash": "works",
    "openai-gpt": "works",
    "gemma3n_text": "rounds",
    "hrm_text": "refused",
}
#: The page is of the newest release that the project was tested with.
OLDER = is_before("transformers", NEWEST_TRANSFORMERS)


def states() -> dict[str, str]:
    """Return what the page says of each type."""
    rows = [line.split("|") for line in PAGE.read_text(encoding="utf-8").splitlines()]
    return {row[1].strip(" `"): row[2].strip() for row in rows if len(row) > 5 and "`" in row[1]}


@pytest.mark.parametrize(("name", "state"), FAST.items())
def test_a_class_comes_to_what_the_page_says(name: str, state: str) -> None:
    outcome = go_through(name)
    if outcome.state == "not made" and OLDER:
        pytest.skip("this transformers makes no small copy of it")
    assert (outcome.state, states()[name]) == (state, state), outcome.reason
    if state == "works":
        assert outcome.packed >= 2 / 3
    else:
        assert len(outcome.reason) > 20


@pytest.mark.skipif(OLDER, reason="the page is of a newer transformers")
def test_the_page_has_every_type_and_no_fault() -> None:
    page = states()
    assert set(page) == set(class_names())
    assert set(page.values()) <= {"works", "rounds", "refused", "not made"}
    assert sum(state == "works" for state in page.values()) >= 120


@pytest.mark.slow
def test_all_classes_come_to_what_the_page_says() -> None:
    page = states()
    outcomes = go_through_all(class_names())
    assert {outcome.name: outcome.state for outcome in outcomes} == page
