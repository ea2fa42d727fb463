"""Every mistake of a recipe is put in the words of its author, one a value, with its place."""

from __future__ import annotations

from typing import Any

import pytest

from autoround.recipe.document import Origin, located, parse_document
from autoround.recipe.explain import check
from autoround.recipe.schema import Recipe


def problems(text: str, *, extra: tuple[str, ...] = ()) -> list[str]:
    node, broken = parse_document(text.encode(), "r.yaml")
    assert node is not None
    assert not broken
    recipe, found = check(node, extra=extra)
    assert (recipe is None) == bool(found)
    return [str(problem) for problem in found]


def given(values: dict[str, Any]) -> tuple[Recipe | None, list[str]]:
    recipe, found = check(located(values, Origin("here")))
    return recipe, [str(problem) for problem in found]


def test_what_is_legal_is_a_recipe_with_defaults_for_the_rest() -> None:
    recipe, found = given({"scheme": {"bits": 3}, "seed": 7})
    assert found == []
    assert recipe == Recipe.model_validate({"scheme": {"bits": 3}, "seed": 7})
    assert given({}) == (Recipe(), [])


def test_mistakes_come_in_the_order_of_the_schema_with_their_lines() -> None:
    found = problems("seed: x\nscheme:\n  bits: 9\n  sym: 4\nwrong: 1\n")
    assert [line.split(": ")[0] for line in found] == [
        "r.yaml:3",
        "r.yaml:4",
        "r.yaml:1",
        "r.yaml:5",
    ]
    assert [line.split(": ")[1].split(" ")[0] for line in found[:3]] == [
        "scheme.bits",
        "scheme.sym",
        "seed",
    ]


def test_a_value_that_fits_no_branch_of_a_union_is_one_mistake() -> None:
    (one,) = problems("tuning: {lr: [1]}")
    assert "tuning.lr: expected auto or a number above 0; got a list" in one


def test_of_a_list_the_entry_that_is_wrong_is_told() -> None:
    (one,) = problems("ignore: [a, '', b]")
    assert one.startswith("r.yaml:1: ignore[1]: expected a layer name")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("tuning: {iters: '200'}", "(remove the quotes)"),
        ("tuning: {iters: '1,000'}", "(write 1000)"),
        ("tuning: {iters: 2.0}", "(write 2)"),
        ("scheme: {sym: off}", "(the words yes, no, on and off are text here)"),
        ("ignore: lm_head", "(write ['lm_head'])"),
        ("tuning: {init_rounding: gtpq}", "(did you mean gptq?)"),
    ],
)
def test_a_hint_says_what_to_write_instead(text: str, hint: str) -> None:
    (one,) = problems(text)
    assert one.endswith(hint)


def test_a_key_in_the_wrong_place_is_told_where_it_belongs() -> None:
    (one,) = problems("iters: 3")
    assert "unknown key iters; did you mean tuning.iters or allocate.iters?" in one
    (other,) = problems("tuning: {itres: 3}")
    assert "unknown key tuning.itres; did you mean tuning.iters? Legal keys of tuning: " in other


def test_further_keys_of_a_file_are_legal_at_its_top_alone() -> None:
    (one,) = problems("wrong: 1", extra=("extends",))
    assert "Legal keys: extends, " in one
    (other,) = problems("scheme: {wrong: 1}", extra=("extends",))
    assert "extends" not in other


def test_rules_are_told_what_is_wrong_with_them_as_a_whole() -> None:
    (one,) = problems("layers:\n  - {kind: mlp, bits: 4}\n  - {kind: mlp}\n")
    assert one == "r.yaml:3: layers[1]: a rule sets at least one of bits, group_size, sym and type"


def test_a_section_that_is_no_mapping_is_told_its_keys() -> None:
    (one,) = problems("scheme: [4]")
    assert "scheme: expected a mapping with keys of bits, group_size, sym; got a list" in one
