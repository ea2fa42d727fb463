"""The loop with a device's help, and with less memory: the same numbers every time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor

from autoround.core.batches import BatchLoader, Pending, Samples, batches
from autoround.core.ops import TorchOps
from autoround.core.tune import DeviceHooks, Reconstruction, Tuned, tune

from ._toy import Recording, codes, hyperparameters, problem


def ran(given: Reconstruction, **options: int) -> tuple[Tuned, list[list[Tensor]]]:
    ops = Recording()
    tuned = tune(given, hyperparameters(6, **options), ops=ops, dtype=torch.float32)
    return tuned, ops.grads


def same_gradients(
    ours: Sequence[Sequence[Tensor]], theirs: Sequence[Sequence[Tensor]], steps: int
) -> None:
    """Compare the gradients of some first steps, each of offsets and of clip factors."""
    for found, wanted in zip(ours[: 2 * steps], theirs[: 2 * steps], strict=True):
        for own, plain in zip(found, wanted, strict=True):
            assert torch.allclose(own, plain, rtol=1e-4, atol=1e-5 * float(plain.abs().max()))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("part", [1, 3])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_batch_in_parts_gives_the_same_gradients(
    masked: bool, part: int, accumulate: int
) -> None:
    given = problem(masked=masked)
    whole, wanted = ran(given, grad_accum_steps=accumulate)
    parts, found = ran(given, grad_accum_steps=accumulate, micro_batch=part)
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
    plain, spared = (ran(given, best_on_cpu=sparing)[0] for sparing in (False, True))
    assert plain.best_step == spared.best_step > 0
    pairs = zip(codes(given, plain).values(), codes(given, spared).values(), strict=True)
    assert all(map(torch.equal, *zip(*pairs, strict=True)))


def test_samples_without_a_token_that_counts_are_left_out() -> None:
    mask = torch.tensor([[True, True], [False, False], [True, False]])
    held = Samples(torch.zeros(3, 2, 4), torch.zeros(3, 2, 4), mask, torch.arange(3))
    found = [
        (int(part.rows[0]), share) for part, share in held.micro_batches(1) if part.rows is not None
    ]
    assert found == [(0, 2 / 3), (2, 1 / 3)]
    nothing = held._replace(mask=torch.zeros(3, 2, dtype=torch.bool))
    assert list(nothing.micro_batches(1)) == []
    assert [share for _, share in nothing.micro_batches(0)] == [1.0]


def test_a_step_without_tokens_moves_nothing() -> None:
    given = problem(masked=True)
    assert given.samples.mask is not None
    empty = given.samples._replace(mask=torch.zeros_like(given.samples.mask))
    for part in (0, 1):
        _, grads = ran(given._replace(samples=empty), micro_batch=part)
        assert not any(bool(grad.any()) for step in grads for grad in step)


class Late:
    """Tensors that come when they are asked for."""

    def __init__(self, tensors: Mapping[str, Tensor], log: list[str]) -> None:
        self._tensors, self._log = dict(tensors), log
        log.append("sent")

    def result(self) -> dict[str, Tensor]:
        self._log.append("taken")
        return self._tensors


@pytest.mark.parametrize("masked", [False, True])
def test_batches_are_sent_ahead_and_are_the_same(masked: bool) -> None:
    given, log = problem(masked=masked), []  # type: ignore[var-annotated]
    order = list(zip(range(6), batches(16, 4, seed=3), strict=False))

    def upload(tensors: Mapping[str, Tensor]) -> Pending:
        return Late(tensors, log)

    elsewhere = torch.device("meta")
    tensors = given.samples.tensors()
    feed = BatchLoader(tensors, batches(16, 4, seed=3), device=elsewhere, upload=upload)
    for number, rows in order:
        drawn, held = feed.next()
        assert torch.equal(drawn, rows)
        assert torch.equal(held["inputs"], given.samples.inputs[rows])
        assert ("mask" in held) == masked
        feed.prefetch()
        feed.prefetch()
        assert log == ["sent", "taken"] * (number + 1) + ["sent"]


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
    plain, wanted = ran(given)
    means = DeviceHooks(capture=recorder)  # type: ignore[arg-type]
    held, found = ran(given._replace(hooks=means, capturable=True))
    assert (recorder.made, recorder.played) == (1, 6)
    assert held.loss_after == plain.loss_after
    for own, exact in zip(found, wanted, strict=True):
        assert all(map(torch.equal, own, exact))


@pytest.mark.parametrize(("steady", "part"), [(False, 0), (True, 1)])
def test_what_cannot_be_recorded_is_not(steady: bool, part: int) -> None:
    recorder = Recorder()
    means = DeviceHooks(capture=recorder)  # type: ignore[arg-type]
    ran(problem()._replace(hooks=means, capturable=steady), micro_batch=part)
    assert recorder.made == 0


def test_after_the_last_batch_nothing_is_sent() -> None:
    log: list[str] = []
    tensors = {"x": torch.arange(4.0)}
    order = iter(torch.arange(4).split(3))
    feed = BatchLoader(
        tensors, order, device=torch.device("meta"), upload=lambda held: Late(held, log)
    )
    sizes = []
    for _ in range(2):
        sizes.append(len(feed.next()[1]["x"]))
        feed.prefetch()
    assert (sizes, log.count("sent")) == ([3, 1], 2)
