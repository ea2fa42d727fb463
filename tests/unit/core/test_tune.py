"""core/tune.py: the loop itself; test_tune_hooks.py has it with a device's help."""

# Tests: autoround/core/reconstruction.py

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import pytest
import torch
from torch import Tensor

from autoround.core.ops import TorchOps
from autoround.core.reconstruction import Reconstruction, rounded_weights
from autoround.core.rounding import Rounding
from autoround.core.rtn import round_to_nearest
from autoround.core.signsgd import SignState
from autoround.core.tune import tune
from autoround.core.validation import LateScores, Tuned, validation_loss

from ._toy import Recording, codes, forward, hyperparameters, problem

NOTHING = LateScores.known(0.0, 0.0, 0)

plain = partial(tune, ops=TorchOps(), dtype=torch.float32)


def keep(losses: list[float], step: int, loss: float) -> None:
    losses.append(loss)


def same(first: Tuned, second: Tuned) -> bool:
    return all(
        torch.equal(a, b)
        for name in first.roundings
        for a, b in zip(first.roundings[name], second.roundings[name], strict=True)
    )


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("sym", [True, False])
@pytest.mark.parametrize("seed", [0, 1])
def test_tuning_never_ends_above_where_it_began(bits: int, sym: bool, seed: int) -> None:
    tuned = plain(problem(bits, sym=sym, seed=seed), hyperparameters(12, seed=seed))
    assert tuned.loss_after <= tuned.loss_before
    assert (tuned.best_step == 0) == (tuned.loss_after == tuned.loss_before)


@pytest.mark.parametrize("sym", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_tuning_removes_a_good_part_of_the_loss(bits: int, sym: bool) -> None:
    tuned = plain(problem(bits, sym=sym), hyperparameters(60))
    assert tuned.loss_after < 0.8 * tuned.loss_before


def test_the_losses_are_those_of_the_roundings() -> None:
    given, times = problem(3), hyperparameters(30)
    tuned = plain(given, times)
    score = partial(
        validation_loss, given, hyperparameters=times, ops=TorchOps(), dtype=torch.float32
    )
    assert score(tuned.roundings) == tuned.loss_after
    assert score(round_to_nearest(given.targets)) == tuned.loss_before


def test_the_best_iterate_is_kept_not_the_last() -> None:
    class RuinsTheEnd(TorchOps):
        def sign_step(
            self, params: Sequence[Tensor], grads: Sequence[Tensor], *, state: SignState
        ) -> SignState:
            done = super().sign_step(params, grads, state=state)
            if done.step == done.steps:
                for param in params:
                    param.data.add_(3.0)
            return done

    given, times = problem(3), hyperparameters(40)
    tuned = tune(given, times, ops=RuinsTheEnd(), dtype=torch.float32)
    assert 0 < tuned.best_step < 40
    again = validation_loss(
        given, tuned.roundings, hyperparameters=times, ops=TorchOps(), dtype=torch.float32
    )
    assert again == tuned.loss_after < tuned.loss_before


def test_a_far_too_high_rate_does_no_harm() -> None:
    given = problem(8)
    tuned = plain(given, hyperparameters(8)._replace(lr=50.0, minmax_lr=50.0))
    start = round_to_nearest(given.targets)
    assert tuned.best_step == 0
    assert tuned.loss_after == tuned.loss_before
    assert same(tuned, Tuned(start, NOTHING))


def test_a_seed_decides_everything() -> None:
    first, again = (plain(problem(3), hyperparameters(20, seed=5)) for _ in range(2))
    other = plain(problem(3), hyperparameters(20, seed=6))
    assert same(first, again)
    assert first.scores.values == again.scores.values
    assert not same(first, other)


@pytest.mark.parametrize("bits", [2, 4])
def test_no_steps_is_round_to_nearest(bits: int) -> None:
    given = problem(bits)
    seen: list[int] = []
    tuned = plain(given, hyperparameters(0), on_step=lambda step, loss: seen.append(step))
    start = round_to_nearest(given.targets)
    assert same(tuned, Tuned(start, NOTHING))
    assert tuned.loss_after == tuned.loss_before > 0
    assert tuned.best_step == 0
    assert seen == []


def test_a_loss_is_told_of_every_step() -> None:
    seen: list[tuple[int, float]] = []
    plain(problem(3), hyperparameters(7), on_step=lambda step, loss: seen.append((step, loss)))
    assert [step for step, _ in seen] == [1, 2, 3, 4, 5, 6, 7]
    assert all(loss > 0 for _, loss in seen)


def test_nothing_given_is_changed() -> None:
    given, untouched = problem(3, masked=True), problem(3, masked=True)
    plain(given, hyperparameters(10))
    for name, task in given.targets.items():
        other = untouched.targets[name]
        assert torch.equal(task.groups, other.groups)
        assert torch.equal(task.grid.lo, other.grid.lo)
        assert torch.equal(task.grid.hi, other.grid.hi)
        assert not any(t.requires_grad for t in (task.groups, task.grid.lo, task.grid.hi))
    for ours, theirs in zip(given.samples[:3], untouched.samples[:3], strict=True):
        assert ours is not None
        assert theirs is not None
        assert torch.equal(ours, theirs)


def test_what_comes_out_needs_no_gradient() -> None:
    for iters in (0, 5):
        tuned = plain(problem(3), hyperparameters(iters))
        parts = [part for rounding in tuned.roundings.values() for part in rounding]
        assert not any(part.requires_grad for part in parts)


def test_padded_positions_do_not_matter() -> None:
    given = problem(3, masked=True)
    samples = given.samples
    assert samples.mask is not None
    assert not samples.mask.all()
    noise = 100.0 * torch.randn(samples.inputs.shape, generator=torch.Generator().manual_seed(9))
    padding = ~samples.mask[..., None]
    noisy = samples._replace(
        inputs=torch.where(padding, noise, samples.inputs),
        targets=torch.where(padding, -noise, samples.targets),
    )
    clean, dirty = (plain(given._replace(samples=s), hyperparameters(15)) for s in (samples, noisy))
    assert same(clean, dirty)
    assert clean.scores.values == dirty.scores.values
    everything = plain(given._replace(samples=noisy._replace(mask=None)), hyperparameters(15))
    assert not same(clean, everything)


def test_a_mask_of_only_real_tokens_is_no_mask() -> None:
    given = problem(3)
    mask = torch.ones(given.samples.inputs.shape[:2], dtype=torch.bool)
    masked = plain(given._replace(samples=given.samples._replace(mask=mask)), hyperparameters(15))
    without = plain(given, hyperparameters(15))
    for name, found in codes(given, masked).items():
        assert (found == codes(given, without)[name]).float().mean() >= 0.99


@pytest.mark.parametrize("masked", [True, False])
def test_accumulated_batches_are_one_larger_batch(masked: bool) -> None:
    """The loss is a mean, so the sum over two halves is twice the gradient of the whole."""
    given = problem(3, masked=masked)
    if masked:  # halves of equally many real tokens, else their means do not add up
        mask = torch.zeros(given.samples.inputs.shape[:2], dtype=torch.bool)
        mask[:, :3] = True
        given = given._replace(samples=given.samples._replace(mask=mask))
    halves, whole = Recording(), Recording()
    losses: list[list[float]] = [[], []]
    for ops, times, seen in (
        (halves, hyperparameters(1, batch_size=4, grad_accum_steps=2), losses[0]),
        (whole, hyperparameters(1, batch_size=8), losses[1]),
    ):
        tune(
            given,
            times,
            ops=ops,
            dtype=torch.float32,
            on_step=partial(keep, seen),
        )
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for part, other in zip(halves.grads, whole.grads, strict=True):
        for ours, theirs in zip(part, other, strict=True):
            size = float(theirs.abs().max())
            torch.testing.assert_close(ours, 2 * theirs, rtol=1e-3, atol=1e-4 * size)


def test_offsets_and_clips_stay_within_reach() -> None:
    times = hyperparameters(20, max_minmax_scale=1.02)._replace(lr=0.02, minmax_lr=0.03)
    tuned = plain(problem(2), times)
    assert tuned.best_step > 0
    way = 0.02 * (20 + 1) / 2
    for rounding in tuned.roundings.values():
        assert float(rounding.offset.abs().max()) <= way + 1e-5
        assert float(rounding.offset.abs().max()) > 0
        for factor in rounding[1:]:
            assert 0.0 <= float(factor.min()) < 1.0
            assert float(factor.max()) <= 1.02 + 1e-6


def test_clips_stay_where_they_are_without_a_rate() -> None:
    ops = Recording()
    tuned = tune(problem(2), hyperparameters(12, minmax_lr=0.0), ops=ops, dtype=torch.float32)
    assert tuned.best_step > 0
    for rounding in tuned.roundings.values():
        assert bool((rounding.min_scale == 1).all())
        assert bool((rounding.max_scale == 1).all())
        assert bool(rounding.offset.any())
    assert {len(grads) for grads in ops.grads} == {2}


def test_a_weight_that_no_sample_reaches_keeps_its_rounding() -> None:
    """An expert that gets no token has no gradient; the others are tuned all the same."""
    given = problem(3)

    def skipping(weights: Mapping[str, Tensor], inputs: Tensor, rows: Tensor | None) -> Tensor:
        return forward({"up": weights["up"], "down": weights["down"]}, inputs)

    idle = {**given.targets, "idle": given.targets["up"]}
    tuned = plain(Reconstruction(skipping, idle, given.samples), hyperparameters(12))
    assert not tuned.roundings["idle"].offset.any()
    assert same(
        Tuned({n: tuned.roundings[n] for n in given.targets}, NOTHING),
        plain(given, hyperparameters(12)),
    )


def test_weights_reach_the_block_in_its_own_shape_and_dtype() -> None:
    given = problem(4)
    start = round_to_nearest(given.targets)
    weights = rounded_weights(given.targets, start, ops=TorchOps(), dtype=torch.bfloat16)
    assert {name: tuple(w.shape) for name, w in weights.items()} == {
        name: task.shape for name, task in given.targets.items()
    }
    assert {w.dtype for w in weights.values()} == {torch.bfloat16}


def test_tuning_works_in_bfloat16() -> None:
    given = problem(3)
    short = given.samples._replace(
        inputs=given.samples.inputs.bfloat16(), targets=given.samples.targets.bfloat16()
    )
    tuned = tune(
        given._replace(samples=short), hyperparameters(60), ops=TorchOps(), dtype=torch.bfloat16
    )
    assert tuned.loss_after < 0.85 * tuned.loss_before
    assert all(
        part.dtype == torch.float32 for r in tuned.roundings.values() for part in Rounding(*r)
    )


def test_samples_smaller_than_a_batch_are_all_taken() -> None:
    given = problem(3)
    few = given.samples._replace(inputs=given.samples.inputs[:3], targets=given.samples.targets[:3])
    tuned = plain(given._replace(samples=few), hyperparameters(20, batch_size=8))
    assert tuned.loss_after < tuned.loss_before
