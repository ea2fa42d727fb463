"""A block is initialised by GPTQ where that is far better, and at the nearest level elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from autoround.core.batches import Samples
from autoround.core.gptq import gptq_offsets, inverse_cholesky
from autoround.core.reconstruction import Hyperparameters, Reconstruction
from autoround.core.rtn import Target
from autoround.core.validation import LateScores
from autoround.session.session import Session
from autoround.settings import GPTQ, NEAREST, LayerTuning, TuningSettings
from autoround.tuning.init_choice import InitChoice, choose_init_rounding, tune_as_chosen
from autoround.tuning.reconstruct import TunedWeights
from autoround.tuning.targets import make_target
from autoround.types import LayerPlan, Scheme

from ...runs import NEAREST as NOT_TUNED
from ...runs import make_session
from ...tiny import make_model

LAYER = LayerPlan("b.up", (24, 32), Scheme(3, 16, False), block="b")
BY_BLOCK = TuningSettings(
    default=LayerTuning(GPTQ, 0.01, 0.02), nearest=LayerTuning(NEAREST, 0.05, 0.07)
)
FOR_GPTQ = Hyperparameters(
    iters=10,
    lr=0.01,
    minmax_lr=0.02,
    batch_size=4,
    grad_accum_steps=1,
    num_validations=1,
    validation_samples=12,
    max_minmax_scale=2.0,
    seed=0,
)


@pytest.fixture(scope="module")
def session() -> Session:
    return make_session(make_model("llama"), NOT_TUNED)


def problem(session: Session, *, related: float) -> Reconstruction:
    """Return a layer initialised by GPTQ; the more its inputs are related, the more that gains."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(LAYER.shape, generator=generator)
    inputs = torch.randn(12, 40, LAYER.shape[1], generator=generator)
    inputs[..., 1:] += related * inputs[..., :1]
    flat = inputs.reshape(-1, LAYER.shape[1])
    factor = inverse_cholesky(flat.t() @ flat)
    assert factor is not None
    target = make_target(session, LAYER, weight, None)
    targets = {LAYER.name: target._replace(offsets=gptq_offsets(target, factor))}

    def forward(weights: Mapping[str, Tensor], batch: Tensor, rows: Tensor | None) -> Tensor:
        return batch @ weights[LAYER.name].t()

    return Reconstruction(forward, targets, Samples(inputs, inputs @ weight.t(), None))


def choose(
    session: Session, block: Reconstruction, settings: TuningSettings = BY_BLOCK
) -> InitChoice:
    ops = session.runtime.ops
    return choose_init_rounding(
        block, FOR_GPTQ, settings=settings, ops=ops, dtype=session.compute_dtype
    )


def only(choice: InitChoice) -> Target:
    return choice.problem.targets[LAYER.name]


def test_gptq_where_it_is_far_better(session: Session) -> None:
    block = problem(session, related=8.0)
    choice = choose(session, block)
    assert choice == InitChoice(block, FOR_GPTQ, GPTQ)


def test_the_nearest_level_and_its_rates_elsewhere(session: Session) -> None:
    block = problem(session, related=0.3)
    choice = choose(session, block)
    assert choice.init_rounding == NEAREST
    assert only(choice).offsets is None
    assert torch.equal(only(choice).groups, block.targets[LAYER.name].groups)
    assert choice.hyperparameters == FOR_GPTQ._replace(lr=0.05, minmax_lr=0.07)
    # What was offered is not changed: the caller still holds it.
    assert block.targets[LAYER.name].offsets is not None


@pytest.mark.parametrize("related", [0.3, 8.0])
def test_without_a_choice_all_stays_as_it_is(session: Session, related: float) -> None:
    block = problem(session, related=related)
    settled = TuningSettings(default=BY_BLOCK.default)
    assert choose(session, block, settled) == InitChoice(block, FOR_GPTQ, "")
    offsets = {LAYER.name: block.targets[LAYER.name]._replace(offsets=None)}
    plain = block._replace(targets=offsets)
    assert choose(session, plain) == InitChoice(plain, FOR_GPTQ, "")


@pytest.mark.parametrize(
    ("best_step", "by_gptq", "kept", "calls"),
    [(7, 0.1, NEAREST, 1), (0, 0.1, GPTQ, 2), (0, 0.9, NEAREST, 2)],
)
def test_where_no_step_helps_gptq_is_tried_too(
    session: Session, best_step: int, by_gptq: float, kept: str, calls: int
) -> None:
    block = problem(session, related=0.3)
    job = replace(session, plan=replace(session.plan, tuning=BY_BLOCK))
    tuned: list[tuple[Reconstruction, Hyperparameters]] = []

    def tune(offered: Reconstruction, numbers: Hyperparameters) -> TunedWeights:
        tuned.append((offered, numbers))
        first = len(tuned) == 1
        scores = LateScores.known(1.0, 0.5 if first else by_gptq, best_step if first else 3)
        return TunedWeights({}, scores)

    found = tune_as_chosen(job, block, FOR_GPTQ, tune=tune)
    assert found.init_rounding == kept
    assert found.loss_after == (by_gptq if kept == GPTQ else 0.5)
    assert len(tuned) == calls
    assert tuned[0][0].targets[LAYER.name].offsets is None
    assert tuned[1:] == [(block, FOR_GPTQ)] * (calls - 1)
