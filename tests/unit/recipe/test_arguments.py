from __future__ import annotations

import pytest

from autoround.errors import RecipeError
from autoround.recipe.arguments import read_arguments
from autoround.recipe.flags import RUN_FLAGS, Flag
from autoround.recipe.load import load_recipe
from autoround.recipe.schema import Recipe


def load(source: str = "default", *overrides: str, **given: object) -> Recipe:
    changes = read_arguments(RUN_FLAGS, given, typed=Flag.as_typed)
    return load_recipe(
        source, values=changes.values, additions=changes.additions, overrides=overrides
    )


def test_bits_win_over_the_name_of_a_scheme() -> None:
    scheme = load(scheme="W4A16G64", sym=False).scheme
    assert (scheme.bits, scheme.group_size, scheme.sym) == (4, 64, False)


def test_rules_and_kept_layers_follow_those_of_the_recipe() -> None:
    recipe = load("w4-mlp-w8-attn", layer_config={"lm_head": {"bits": 8}}, ignore_layers="up_proj")
    assert [(rule.kind, rule.match, rule.bits) for rule in recipe.layers] == [
        ("attention", (), 8),
        ("any", "lm_head", 8),
    ]
    assert recipe.layers[1].origin.startswith("--layer-config ")
    assert recipe.ignore == (r"re:(^|\.)up_proj(\.|$)",)
    assert load("default", "ignore=[]", ignore_layers="up_proj").ignore == ()


def test_the_head_has_the_bits_of_the_others() -> None:
    recipe = load(bits=3, quant_lm_head=True)
    scheme = recipe.lm_head.as_scheme(recipe.scheme)
    assert scheme is not None
    assert scheme.bits == 3
    assert load(quant_lm_head=False).lm_head.bits == 16


def test_a_budget_takes_the_place_of_the_recipes() -> None:
    recipe = load("default", avg_bits=3.0, options="W2A16,W4A16")
    assert (recipe.allocate.avg_bits, recipe.allocate.max_kl) == (3.0, "none")
    assert recipe.allocate.options == ("W2", "W4")


def test_all_mistakes_are_told() -> None:
    with pytest.raises(RecipeError) as caught:
        load(scheme="W9A16", bits=99, layer_config="{")
    origins = [line.split(": ")[0] for line in str(caught.value).splitlines()]
    assert sorted(origins) == ["--bits 99", "--layer-config {", "--scheme W9A16"]


@pytest.mark.parametrize(
    ("given", "overrides", "named"),
    [
        ({}, (), False),
        ({"dataset": "NeelNanda/pile-10k"}, (), True),
        ({}, ("calibration.dataset=NeelNanda/pile-10k",), True),
        ({"nsamples": 3}, (), False),
        ({"dataset": "x.txt"}, (), True),
    ],
)
def test_a_dataset_that_is_named_is_told_from_the_recipes_own(
    given: dict[str, object], overrides: tuple[str, ...], named: bool
) -> None:
    assert load("light", *overrides, **given).calibration.dataset_named is named
