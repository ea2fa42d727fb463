"""Weights that are used together are tuned together, and quantized."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from autoround.core.batches import Samples
from autoround.core.reconstruction import Hyperparameters, Reconstruction
from autoround.core.rtn import Target, round_to_nearest
from autoround.errors import AutoRoundError
from autoround.formats.gguf.tensors import dense
from autoround.session.session import Session
from autoround.settings import LayerTuning, TuningSettings
from autoround.tuning.reconstruct import (
    TunedWeights,
    hyperparameters_for,
    round_weights,
    tune_weights,
)
from autoround.tuning.targets import make_target
from autoround.types import LayerPlan, Scheme

from ...runs import NEAREST, make_session
from ...tiny import make_model

EXPERTS, ROWS, WIDTH = 3, 8, 32
LAYER = LayerPlan(
    "b.experts.up", (EXPERTS * ROWS, WIDTH), Scheme(2, 16, False), experts=EXPERTS, block="b"
)
STEPS = Hyperparameters(
    iters=60,
    lr=0.02,
    minmax_lr=0.02,
    batch_size=4,
    grad_accum_steps=1,
    num_validations=2,
    validation_samples=6,
    max_minmax_scale=1.0,
    seed=3,
)


@pytest.fixture(scope="module")
def session() -> Session:
    return make_session(make_model("llama"), NEAREST)


def problem(session: Session, *, factor: float = 1.0) -> Reconstruction:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(EXPERTS * ROWS, WIDTH, generator=generator)
    inputs = torch.randn(12, 5, WIDTH, generator=generator)
    inputs[..., 1:] += 2 * inputs[..., :1]
    targets = {LAYER.name: make_target(session, LAYER, weight, None)}

    def forward(weights: Mapping[str, Tensor], batch: Tensor, rows: Tensor | None) -> Tensor:
        return factor * batch @ weights[LAYER.name].t()

    samples = Samples(inputs, inputs @ weight.t(), None)
    return Reconstruction(forward, targets, samples)


def loss(session: Session, found: TunedWeights) -> float:
    """Return the mean squared error of the outputs on all samples, in float64."""
    samples = problem(session).samples
    outputs = samples.inputs.double() @ dense(found.weights[LAYER.name]).double().t()
    return float((outputs - samples.targets.double()).square().mean())


def test_without_tuning_weights_are_as_they_are_initialised(session: Session) -> None:
    targets = problem(session).targets
    found = round_weights(session, [LAYER], targets)
    assert math.isnan(found.loss_before)
    assert math.isnan(found.loss_after)
    assert found.best_step == 0
    moved: dict[str, Target] = {
        name: t._replace(offsets=torch.full_like(t.groups, 0.5)) for name, t in targets.items()
    }
    other = round_weights(session, [LAYER], moved)
    before, after = (x.weights[LAYER.name].codes.int() for x in (found, other))
    assert set((after - before).unique().tolist()) == {0, 1}


def test_tuned_weights_have_the_loss_they_are_said_to_have(session: Session) -> None:
    every = STEPS._replace(validation_samples=12)
    found = tune_weights(session, [LAYER], problem(session), hyperparameters=every)
    plain = round_weights(session, [LAYER], problem(session).targets)
    assert loss(session, plain) == pytest.approx(found.loss_before, rel=1e-4)
    assert loss(session, found) == pytest.approx(found.loss_after, rel=1e-4)
    assert found.loss_after < 0.8 * found.loss_before
    assert 30 <= found.best_step <= 60


def test_every_step_is_told(session: Session) -> None:
    seen: list[tuple[int, float]] = []
    steps = STEPS._replace(iters=5)
    tune_weights(
        session,
        [LAYER],
        problem(session),
        hyperparameters=steps,
        on_step=lambda step, own: seen.append((step, own)),
    )
    assert [step for step, _ in seen] == [1, 2, 3, 4, 5]
    assert all(math.isfinite(own) for _, own in seen)


@pytest.mark.parametrize("factor", [float("inf"), float("nan")])
@pytest.mark.parametrize("block", ["b", ""])
def test_a_loss_that_is_no_number_names_the_block_and_what_to_set(
    session: Session, factor: float, block: str
) -> None:
    own = replace(LAYER, block=block)
    words = "^block b: " if block else "^layer b.experts.up: "
    tuned = tune_weights(session, [own], problem(session, factor=factor), hyperparameters=STEPS)
    with pytest.raises(AutoRoundError, match=words + ".* set tuning.compute_dtype=float32"):
        _ = tuned.loss_before


def test_experts_that_saw_too_little_get_their_first_rounding_back(session: Session) -> None:
    few = torch.tensor([False, True, False])
    tuned = tune_weights(session, [LAYER], problem(session), hyperparameters=STEPS)
    reset = tune_weights(
        session, [LAYER], problem(session), hyperparameters=STEPS, undertrained={LAYER.name: few}
    )
    plain = round_weights(session, [LAYER], problem(session).targets)
    for expert in range(EXPERTS):
        rows = slice(expert * ROWS, (expert + 1) * ROWS)
        own, wanted = (
            dense(x.weights[LAYER.name])[rows] for x in (reset, plain if few[expert] else tuned)
        )
        assert torch.equal(own, wanted)
    assert tuned.loss_after < reset.loss_after <= reset.loss_before


def test_a_block_that_is_worse_with_these_experts_reset_starts_where_it_began(
    session: Session,
) -> None:
    """Experts whose outputs are added up are tuned to correct each other."""
    own = problem(session)
    weight_sum = own.samples.targets.unflatten(-1, (EXPERTS, ROWS)).sum(-2)

    def forward(weights: Mapping[str, Tensor], batch: Tensor, rows: Tensor | None) -> Tensor:
        each: Tensor = (batch @ weights[LAYER.name].t()).unflatten(-1, (EXPERTS, ROWS))
        return each.sum(-2)

    together = own._replace(
        forward=forward,
        samples=Samples(own.samples.inputs, weight_sum, None),
    )
    steps = STEPS._replace(iters=200, lr=0.1, minmax_lr=0.1)
    few = {LAYER.name: torch.tensor([True, True, False])}
    found = tune_weights(session, [LAYER], together, hyperparameters=steps, undertrained=few)
    plain = round_weights(session, [LAYER], own.targets)
    assert (found.best_step, found.loss_after) == (0, found.loss_before)
    assert torch.equal(dense(found.weights[LAYER.name]), dense(plain.weights[LAYER.name]))
    tuned = tune_weights(session, [LAYER], together, hyperparameters=steps)
    assert tuned.loss_after < 0.3 * tuned.loss_before


def test_nothing_is_reset_where_nothing_was_tuned(session: Session) -> None:
    every = {LAYER.name: torch.ones(EXPERTS, dtype=torch.bool)}
    offsets = {
        n: t._replace(offsets=torch.full_like(t.groups, 0.4))
        for n, t in problem(session).targets.items()
    }
    start = problem(session)._replace(targets=offsets)
    none = STEPS._replace(iters=0)
    found = tune_weights(session, [LAYER], start, hyperparameters=none, undertrained=every)
    wanted = round_weights(session, [LAYER], offsets)
    assert torch.equal(dense(found.weights[LAYER.name]), dense(wanted.weights[LAYER.name]))
    assert not torch.equal(
        dense(found.weights[LAYER.name]),
        dense(round_weights(session, [LAYER], problem(session).targets).weights[LAYER.name]),
    )
    assert round_to_nearest(offsets)[LAYER.name].offset.eq(0.4).all()


SETTINGS = TuningSettings(
    iters=7,
    default=LayerTuning("nearest", 0.25, 0.125),
    layers=(("a", LayerTuning("gptq", 0.5, 0.75)),),
    batch_size=3,
    grad_accum_steps=2,
    num_validations=4,
    validation_samples=5,
    seed=40,
)


def test_settings_become_plain_numbers_and_every_unit_draws_its_own() -> None:
    found = hyperparameters_for(SETTINGS, 2)
    assert (found.iters, found.lr, found.minmax_lr) == (7, 0.25, 0.125)
    assert (found.lrs("a"), found.lrs("b")) == ((0.5, 0.75), (0.25, 0.125))
    assert (found.batch_size, found.grad_accum_steps) == (3, 2)
    assert (found.num_validations, found.validation_samples) == (4, 5)
    seeds = {hyperparameters_for(SETTINGS, unit).seed for unit in range(5)}
    assert len(seeds) == 5


@pytest.mark.parametrize(("init", "most"), [("search", 2.0), ("minmax", 1.0)])
def test_a_searched_range_may_grow_and_a_whole_one_only_shrink(init: str, most: float) -> None:
    assert hyperparameters_for(replace(SETTINGS, init_scale=init), 0).max_minmax_scale == most


@pytest.mark.parametrize("low", [True, False])
def test_low_memory_takes_samples_one_by_one_and_keeps_the_best_on_the_host(low: bool) -> None:
    found = hyperparameters_for(replace(SETTINGS, low_memory=low), 0)
    assert (found.micro_batch, found.best_on_cpu) == ((1, True) if low else (0, False))
