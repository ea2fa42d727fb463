"""Keys of a recipe that depend on each other."""

from __future__ import annotations

import pytest

from autoround.planning.hyperparameters import (
    MOST_FRESH,
    fresh_samples,
    settle_layer,
    settle_layers,
)
from autoround.recipe.end_to_end import EndToEndOptions
from autoround.recipe.schema import CalibrationOptions, Recipe, SchemeOptions, TuningOptions
from autoround.settings import LayerTuning
from autoround.types import BlockPlan, LayerPlan, Scheme


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
    found = settle_layer(recipe(options, bits))
    assert (found.lr, found.minmax_lr) == (lr, minmax_lr)


def test_ranges_that_are_not_tuned_have_no_rate() -> None:
    assert settle_layer(recipe(TuningOptions(tune_minmax=False), 4)).minmax_lr == 0.0


def test_experts_begin_at_the_nearest_level_and_have_its_rate() -> None:
    def layer(name: str, bits: int, experts: int = 0) -> LayerPlan:
        return LayerPlan(name, (64, 64), Scheme(bits, 32, True), experts=experts)

    block = BlockPlan(0, "0", (layer("0.q", 2), layer("0.k", 4), layer("0.experts", 4, 8)))
    most = recipe(TuningOptions(iters=100), 4)
    assert settle_layer(most) == LayerTuning("gptq", 0.002, 0.002)
    assert settle_layers(most, [block]) == (("0.experts", LayerTuning("nearest", 0.01, 0.01)),)
    # Of few bits all begin there.
    assert settle_layers(recipe(TuningOptions(iters=100), 2), [block]) == ()
    # A learning rate that was asked for is everybody's; experts have no Hessian all the same.
    asked = recipe(TuningOptions(iters=100, lr=0.5), 4)
    assert settle_layers(asked, [block]) == (("0.experts", LayerTuning("nearest", 0.5, 0.5)),)
    assert settle_layers(recipe(TuningOptions(iters=0), 4), [block]) == ()


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (EndToEndOptions(steps=10), 0),
        (EndToEndOptions(steps=10, nsamples=7), 7),
        (EndToEndOptions(steps=0, nsamples=7), 0),
        # One for each that a step takes, and those that validate.
        (EndToEndOptions(steps=10, batch_size=4, nsamples="auto"), 48),
        (EndToEndOptions(steps=10**6, nsamples="auto"), 256 + 8),  # 2,048 tokens each
        (EndToEndOptions(steps=0, nsamples="auto"), 0),
    ],
)
def test_fresh_samples(options: EndToEndOptions, count: int) -> None:
    assert fresh_samples(Recipe(end_to_end=options)) == count


@pytest.mark.parametrize(("seqlen", "count"), [(128, MOST_FRESH), (1 << 10, 512), (1 << 20, 1)])
def test_fresh_samples_are_bounded_by_their_tokens(seqlen: int, count: int) -> None:
    options = EndToEndOptions(steps=10**6, nsamples="auto")
    found = Recipe(end_to_end=options, calibration=CalibrationOptions(seqlen=seqlen))
    assert fresh_samples(found) == count + 8
