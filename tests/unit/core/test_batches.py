"""Batches of samples: what is drawn when, and how it comes to the device."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from autoround.core.batches import BatchLoader, Pending, Samples, batches

from ._cases import few
from ._toy import problem


@few
@given(
    size=st.integers(1, 6),
    per_epoch=st.integers(1, 5),
    remainder=st.integers(0, 5),
    seed=st.integers(0, 2**31),
)
def test_an_epoch_takes_every_index_once_but_for_the_remainder(
    size: int, per_epoch: int, remainder: int, seed: int
) -> None:
    left = remainder % size
    count = size * per_epoch + left
    order = batches(count, size, seed=seed)
    for _ in range(3):
        epoch = torch.cat(list(islice(order, per_epoch))).tolist()
        assert len(set(epoch)) == len(epoch) == count - left
        assert set(epoch) <= set(range(count))


def test_epochs_differ_and_a_seed_repeats_them() -> None:
    first, again, other = (
        [b.tolist() for b in islice(batches(32, 8, seed=seed), 8)] for seed in (3, 3, 4)
    )
    assert first == again
    assert first != other
    assert first[:4] != first[4:]


def test_no_global_random_state_is_used() -> None:
    state = torch.get_rng_state()
    next(batches(16, 4, seed=0))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("size", [4, 5, 100])
def test_a_batch_larger_than_everything_is_everything(size: int) -> None:
    order = batches(4, size, seed=0)
    assert [sorted(batch.tolist()) for batch in islice(order, 3)] == [[0, 1, 2, 3]] * 3


def test_samples_are_taken_by_index() -> None:
    inputs = torch.arange(12.0).reshape(3, 2, 2)
    mask = torch.tensor([[True, True], [True, False], [False, True]])
    rows = torch.tensor([2, 0])
    tensors = Samples(inputs, -inputs, mask).tensors()
    loader = BatchLoader(tensors, [rows], device=torch.device("cpu"))
    drawn, taken = loader.next()
    assert torch.equal(drawn, rows)
    assert torch.equal(taken["inputs"], inputs[[2, 0]])
    assert torch.equal(taken["targets"], -inputs[[2, 0]])
    assert taken["mask"].tolist() == [[False, True], [True, True]]
    assert "mask" not in Samples(inputs, inputs, None).tensors()


def test_after_the_last_batch_there_is_none() -> None:
    tensors = {"x": torch.arange(4.0)}
    there = BatchLoader(tensors, [torch.arange(2)], device=torch.device("cpu"))
    sent = BatchLoader(
        tensors, [torch.arange(2)], device=torch.device("meta"), upload=lambda held: Late(held, [])
    )
    for loader in (there, sent):
        loader.next()
        with pytest.raises(IndexError):
            loader.next()


def test_rows_of_samples_on_a_device_are_sent_once() -> None:
    """On meta tensors, which stand for a device: only the CPU's own tensors are uploaded."""
    meta, uploads = torch.device("meta"), []  # type: ignore[var-annotated]

    def upload(tensors: Mapping[str, Tensor]) -> Pending:
        uploads.append({name: tuple(tensor.shape) for name, tensor in tensors.items()})
        return Late({name: tensor.to(meta) for name, tensor in tensors.items()}, [])

    tensors = {"inputs": torch.empty(6, 3, device=meta), "mask": torch.ones(6, 2)}
    order = list(torch.arange(6).split(4))
    loader = BatchLoader(tensors, order, device=meta, upload=upload)
    shapes = []
    for rows in order:
        drawn, batch = loader.next()
        loader.prefetch()
        assert torch.equal(drawn, rows), "what the block is told of its samples is on the CPU"
        assert {tensor.device for tensor in batch.values()} == {meta}
        shapes.append(tuple(batch["inputs"].shape))
    assert shapes == [(4, 3), (2, 3)]
    assert uploads == [{"mask": (6, 2), "": (6,)}]
    assert not loader.uploads


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
    samples, log = problem(masked=masked).samples, []  # type: ignore[var-annotated]
    order = list(islice(batches(16, 4, seed=3), 7))

    def upload(tensors: Mapping[str, Tensor]) -> Pending:
        return Late(tensors, log)

    elsewhere = torch.device("meta")
    tensors = samples.tensors()
    loader = BatchLoader(tensors, order, device=elsewhere, upload=upload)
    for number, rows in enumerate(order[:-1]):
        drawn, held = loader.next()
        assert torch.equal(drawn, rows)
        assert torch.equal(held["inputs"], samples.inputs[rows])
        assert ("mask" in held) == masked
        loader.prefetch()
        loader.prefetch()
        assert log == ["sent", "taken"] * (number + 1) + ["sent"]


def test_after_the_last_batch_nothing_is_sent() -> None:
    log: list[str] = []
    tensors = {"x": torch.arange(4.0)}
    order = torch.arange(4).split(3)
    loader = BatchLoader(
        tensors, order, device=torch.device("meta"), upload=lambda held: Late(held, log)
    )
    sizes = []
    for _ in range(2):
        sizes.append(len(loader.next()[1]["x"]))
        loader.prefetch()
    assert (sizes, log.count("sent")) == ([3, 1], 2)
