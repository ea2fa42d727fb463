"""The keys of end-to-end tuning, and mistakes in them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from autoround.errors import RecipeError
from autoround.recipe.load import load_recipe
from autoround.recipe.schema import Recipe


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nsamples: 1", "auto, 0 or an integer of at least 2"),
        ("nsamples: -3", "auto, 0 or an integer of at least 2"),
        ("nsamples: many", "auto, 0 or an integer of at least 2"),
        ("nsamples: 2.5", "auto, 0 or an integer of at least 2"),
        ("dataset: ''", "auto, text or a list of texts"),
        ("dataset: []", "auto, text or a list of texts"),
    ],
)
def test_mistakes_about_fresh_samples_have_their_line(
    line: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"extends: w2\nend_to_end:\n  steps: 3\n  {line}\n")
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert f"{path}:4: end_to_end.{line.partition(':')[0]}: " in str(caught.value)
    assert message in str(caught.value)


def test_fresh_samples_may_be_a_number_or_left_to_the_steps(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    for value in ("auto", 0, 2, 800):
        path.write_text(f"extends: w2\nend_to_end:\n  nsamples: {value}\n  dataset: [a.txt, b]\n")
        found = load_recipe(path).end_to_end
        assert (found.nsamples, found.dataset) == (value, ("a.txt", "b"))
        assert Recipe.model_validate(yaml.safe_load(load_recipe(path).to_yaml()))
