"""Keys of a recipe that depend on each other."""

from __future__ import annotations

import pytest

from autoround.planning.hyperparameters import learning_rate, minmax_learning_rate, settle_layer
from autoround.recipe.schema import Recipe, SchemeOptions, TuningOptions


def recipe(options: TuningOptions, bits: int = 4) -> Recipe:
    return Recipe(scheme=SchemeOptions(bits=bits), tuning=options)


@pytest.mark.parametrize(
    ("options", "bits", "start"),
    [
        (TuningOptions(), 4, True),
        (TuningOptions(), 3, True),
        (TuningOptions(), 2, False),
        (TuningOptions(iters=0), 4, False),
        (TuningOptions(iters=0, init_rounding="gptq"), 4, True),
        (TuningOptions(init_rounding="gptq"), 2, True),
        (TuningOptions(init_rounding="nearest"), 4, False),
    ],
)
def test_start(options: TuningOptions, bits: int, start: bool) -> None:
    assert (settle_layer(recipe(options, bits)).init_rounding == "gptq") is start


@pytest.mark.parametrize(
    ("options", "bits", "lr", "minmax_lr"),
    [
        (TuningOptions(iters=50), 4, 0.004, 0.004),
        (TuningOptions(iters=50), 2, 0.04, 0.04),
        (TuningOptions(iters=50, init_rounding="nearest"), 4, 0.02, 0.02),
        (TuningOptions(iters=50, init_rounding="gptq"), 2, 0.004, 0.004),
        (TuningOptions(iters=4, init_rounding="nearest"), 4, 0.25, 0.25),
        (TuningOptions(iters=4, init_rounding="gptq"), 4, 0.05, 0.05),
        (TuningOptions(iters=4, init_rounding="gptq", lr=0.5), 4, 0.5, 0.5),
        (TuningOptions(iters=50, lr=0.5), 4, 0.5, 0.5),
        (TuningOptions(iters=50, minmax_lr=0.5), 4, 0.004, 0.5),
        (TuningOptions(iters=0, lr=0.5), 4, 0.0, 0.0),
        (TuningOptions(iters=0, minmax_lr=0.5), 4, 0.0, 0.0),
    ],
)
def test_auto_rates(options: TuningOptions, bits: int, lr: float, minmax_lr: float) -> None:
    found = recipe(options, bits)
    assert (learning_rate(found), minmax_learning_rate(found)) == (lr, minmax_lr)
