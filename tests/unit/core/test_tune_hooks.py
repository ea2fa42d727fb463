"""core/tune.py with a device's hooks, and with less memory: the same numbers every time."""

# Tests: autoround/core/gradient_step.py

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor

from autoround.core.batches import Pending
from autoround.core.ops import TorchOps
from autoround.core.reconstruction import DeviceHooks, Reconstruction
from autoround.core.tune import tune
from autoround.core.validation import Tuned

from ._toy import Recording, codes, hyperparameters, problem


def ran(given: Reconstruction, **options: int) -> tuple[Tuned, list[list[Tensor]]]:
    ops = Recording()
    tuned = tune(given, hyperparameters(6, **options), ops=ops, dtype=torch.float32)
    return tuned, ops.grads


def same_gradients(
    ours: Sequence[Sequence[Tensor]], theirs: Sequence[Sequence[Tensor]], steps: int
) -> None:
    """Compare the gradients of some first steps, each of offsets and of min_scale and max_scale."""
    for found, wanted in zip(ours[: 2 * steps], theirs[: 2 * steps], strict=True):
        for own, plain in zip(found, wanted, strict=True):
            assert torch.allclose(own, plain, rtol=1e-4, atol=1e-5 * float(plain.abs().max()))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("steps", [1, 2])
def test_a_batch_in_parts_gives_the_same_gradients(masked: bool, size: int, steps: int) -> None:
    given = problem(masked=masked)
    whole, wanted = ran(given, grad_accum_steps=steps)
    parts, found = ran(given, grad_accum_steps=steps, micro_batch=size)
    same_gradients(found, wanted, 1)
    assert parts.loss_before == pytest.approx(whole.loss_before, rel=1e-5)
    pairs = zip(codes(given, parts).values(), codes(given, whole).values(), strict=True)
    shares = [float((own == plain).double().mean()) for own, plain in pairs]
    assert min(shares) > 0.99


def test_in_parts_a_step_rounds_its_weights_once() -> None:
    class Counting(TorchOps):
        count = 0

        def fake_quantize_all(self, *args: object, **kwargs: object) -> list[Tensor]:
            self.count += torch.is_grad_enabled()
            return super().fake_quantize_all(*args, **kwargs)  # type: ignore[arg-type]

    ops = Counting()
    tune(
        problem(),
        hyperparameters(5, micro_batch=1, grad_accum_steps=3),
        ops=ops,
        dtype=torch.float32,
    )
    assert ops.count == 5


def test_a_part_that_is_a_batch_changes_nothing() -> None:
    given = problem()
    whole, parts = (ran(given, micro_batch=part)[0] for part in (0, 4))
    assert whole.loss_after == parts.loss_after
    pairs = zip(codes(given, parts).values(), codes(given, whole).values(), strict=True)
    assert all(map(torch.equal, *zip(*pairs, strict=True)))


def test_kept_elsewhere_the_best_iterate_is_the_same() -> None:
    given = problem()
    plain, spared = (ran(given, best_on_cpu=on_cpu)[0] for on_cpu in (False, True))
    assert plain.best_step == spared.best_step > 0
    pairs = zip(codes(given, plain).values(), codes(given, spared).values(), strict=True)
    assert all(map(torch.equal, *zip(*pairs, strict=True)))


def test_a_step_without_tokens_moves_nothing() -> None:
    given = problem(masked=True)
    assert given.samples.mask is not None
    empty = given.samples._replace(mask=torch.zeros_like(given.samples.mask))
    for part in (0, 1):
        _, grads = ran(given._replace(samples=empty), micro_batch=part)
        assert not any(bool(grad.any()) for step in grads for grad in step)


def test_what_is_there_is_not_sent() -> None:
    given = problem()

    def upload(tensors: Mapping[str, Tensor]) -> Pending:
        raise AssertionError("it is on the device already")

    plain, _ = ran(given)
    held, _ = ran(given._replace(hooks=DeviceHooks(upload=upload)))
    assert plain.loss_after == held.loss_after


class Recorder:
    """Records a step: the first call makes it, the others play it into the same tensors."""

    def __init__(self) -> None:
        self.made = self.played = 0

    def __call__(self, step: object, examples: Sequence[Tensor]) -> object:
        self.made += 1
        inputs = [example.clone() for example in examples]
        outputs = [tensor.clone() for tensor in step(inputs)]  # type: ignore[operator]

        def play(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
            self.played += 1
            for own, given in zip(inputs, tensors, strict=True):
                own.copy_(given)
            for own, fresh in zip(outputs, step(inputs), strict=True):  # type: ignore[operator]
                own.copy_(fresh)
            return outputs

        return play


@pytest.mark.parametrize("masked", [False, True])
def test_a_recorded_step_gives_the_same_numbers(masked: bool) -> None:
    given, recorder = problem(masked=masked), Recorder()
    plain, _ = ran(given)
    hooks = DeviceHooks(capture=recorder)  # type: ignore[arg-type]
    held, _ = ran(given._replace(hooks=hooks, capturable=True))
    assert (recorder.made, recorder.played) == (1, 6)
    assert held.scores.values == plain.scores.values
    assert plain.best_step > 0
    for name, rounding in plain.roundings.items():
        assert all(map(torch.equal, held.roundings[name], rounding))


@pytest.mark.parametrize(("capturable", "size"), [(False, 0), (True, 1)])
def test_what_cannot_be_recorded_is_not(capturable: bool, size: int) -> None:
    recorder = Recorder()
    hooks = DeviceHooks(capture=recorder)  # type: ignore[arg-type]
    ran(problem()._replace(hooks=hooks, capturable=capturable), micro_batch=size)
    assert recorder.made == 0
