"""Samples of one length are drawn from documents, or from a text that runs on."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from autoround.data.encode import Encoder
from autoround.data.records import Ids, Record
from autoround.data.sampling import Sampled, SampleSpec, degenerate, sample, shuffled
from autoround.data.sources import Source
from autoround.data.spec import DatasetSpec
from autoround.errors import DataError


def source(*lengths: int) -> Source:
    """Return documents of rising ids, each of its own hundred thousand."""

    def records() -> Iterator[Record]:
        for number, length in enumerate(lengths):
            yield Ids(tuple(range(number * 100_000, number * 100_000 + length)), f"row {number}")

    return Source("rows", records)


def draw(
    given: Source, *, count: int = 4, seqlen: int = 8, seed: str = "a", **spec: Any
) -> Sampled:
    encoder = Encoder(None)
    wish = SampleSpec(count, seqlen, seed)
    return sample(DatasetSpec("rows", **spec), given, encoder=encoder, wish=wish)


def owners(samples: Sequence[Sequence[int]]) -> list[int]:
    return [own[0] // 100_000 for own in samples]


def test_documents_give_a_sample_each_and_short_ones_none() -> None:
    found = draw(source(8, 7, 20, 8, 3))
    assert sorted(owners(found.samples)) == [0, 2, 3]
    assert all(len(own) == 8 and own[0] % 100_000 == 0 for own in found.samples)
    assert (found.longest, found.repetitive, found.notes) == (8, 0, ())


def test_no_more_are_taken_than_are_wished_for_and_the_seed_decides_which() -> None:
    many = source(*[8] * 50)
    assert len(draw(many, count=5).samples) == 5
    assert draw(many, count=5) == draw(many, count=5)
    drawn = {tuple(owners(draw(many, count=5, seed=str(seed)).samples)) for seed in range(6)}
    assert len(drawn) > 4


def test_joined_records_follow_each_other_and_are_cut_into_windows() -> None:
    found = draw(source(3, 3, 3, 3, 3, 3), concat=True, count=2, seqlen=6)
    assert found.notes == ("concatenated",)
    assert len(found.samples) == 2
    for own in found.samples:
        assert [number % 100_000 for number in own] == [0, 1, 2, 0, 1, 2]
        first, second = owners([own[:3], own[3:]])
        assert first != second
    used = [number for own in found.samples for number in owners([own[:3], own[3:]])]
    assert len(set(used)) == 4


def test_samples_that_one_id_fills_teach_nothing_and_are_counted() -> None:
    def records() -> Iterator[Record]:
        yield Ids((1, *[7] * 7), "filled")
        yield Ids((1, 2, 3, 4, 7, 7, 7, 7), "half")
        yield Ids((7,), "short")

    found = draw(Source("rows", records))
    assert found.samples == [[1, 2, 3, 4, 7, 7, 7, 7]]
    assert found.repetitive == 1
    assert degenerate([1, 7, 7])
    assert not degenerate([7, 7, 1])
    assert not degenerate([1, 7])


def test_an_empty_dataset_is_named() -> None:
    with pytest.raises(DataError, match="dataset rows holds no text: name another dataset"):
        draw(source())
    with pytest.raises(DataError, match="holds no text"):
        draw(source(), concat=True)


def test_a_sample_needs_room_beside_special_tokens() -> None:
    encoder = Encoder(None, prefix=(1, 2))
    with pytest.raises(DataError, match="a sample of 2 tokens has no room for text beside the 2"):
        sample(DatasetSpec("rows"), source(8), encoder=encoder, wish=SampleSpec(1, 2, "a"))


def test_shuffling_loses_and_repeats_nothing() -> None:
    given = list(source(*[1] * 300).records())
    found = list(shuffled(iter(given), random.Random(0)))
    assert found != given
    assert sorted(record.where for record in found) == sorted(record.where for record in given)
