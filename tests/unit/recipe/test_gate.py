"""Bounds of a gate: what is read, what is refused and in which words."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoround.errors import RecipeError
from autoround.recipe.gate import Bound, parse_gate
from autoround.recipe.load import load_recipe


def test_bounds_are_read_and_written_the_same_way() -> None:
    bounds = parse_gate("ppl<=1.05x, kl<=0.1,top1>=.9,ppl<=20")
    assert bounds == (
        Bound("ppl", 1.05, relative=True),
        Bound("kl", 0.1),
        Bound("top1", 0.9),
        Bound("ppl", 20.0),
    )
    assert ",".join(map(str, bounds)) == "ppl<=1.05x,kl<=0.1,top1>=0.9,ppl<=20"
    assert parse_gate("none") == ()


def test_a_bare_perplexity_alone_needs_no_original() -> None:
    needs = {str(x): x.needs_original for x in parse_gate("ppl<=9,ppl<=2x,kl<=1,top1>=0.5")}
    assert needs == {"ppl<=9": False, "ppl<=2x": True, "kl<=1": True, "top1>=0.5": True}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "'' is no bound"),
        ("ppl", "'ppl' is no bound"),
        ("ppl<=1.05x,", "'' is no bound"),
        ("loss<=1", "'loss' is none of ppl, kl, top1"),
        ("ppl<1.05x", "ppl is bounded by <=, not <"),
        ("top1<=0.9", "top1 is bounded by >=, not <="),
        ("kl<=0.1x", "x, times the original's, is for ppl"),
        ("kl<=nan", "'nan' is no number"),
        ("kl<=-1", "'-1' is no number"),
        ("kl<=1e9", "'1e9' is no number"),
        ("kl<=0", "a bound of 0 on kl is above 0"),
        ("top1>=90", "top1 is a fraction from 0 to 1, not 90"),
        ("kl<=1,kl<=2", "kl is bounded twice"),
    ],
)
def test_what_is_no_bound_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match="bound|none of|number|fraction|times") as error:
        parse_gate(text)
    assert why in str(error.value)


def test_a_recipe_names_the_line_and_what_is_legal(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text('evaluation:\n  gate: "ppl<1.05x"\n')
    with pytest.raises(RecipeError) as error:
        load_recipe(path)
    text = str(error.value)
    assert "mine.yaml:2" in text
    assert "ppl<=NUMBERx" in text
    assert "ppl is bounded by <=, not <" in text
