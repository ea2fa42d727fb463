from __future__ import annotations

from autoround.recipe.evaluation import EvaluationOptions
from autoround.recipe.load import load_recipe


def test_nothing_is_judged_unless_it_is_asked_for() -> None:
    options = load_recipe("default").evaluation
    assert isinstance(options, EvaluationOptions)
    assert (options.gate, options.text) == ("none", "none")


def test_values_are_kept_in_a_recipe_that_is_written() -> None:
    recipe = load_recipe("default", values={"evaluation.gate": "kl<=0.1"})
    assert "gate: kl<=0.1" in recipe.to_yaml()
