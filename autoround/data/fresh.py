"""Samples that end-to-end tuning alone reads: after those of the calibration, and none of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from autoround.data.calibration import DatasetDraw, draw_datasets
from autoround.data.encode import Tokenizer
from autoround.data.sampling import Sampled, SampleSpec, sample
from autoround.data.spec import parse_datasets
from autoround.data.tokens import Tokens
from autoround.errors import DataError

#: The least that can be divided into samples to train on and samples to validate on.
LEAST = 2


@dataclass(frozen=True, slots=True)
class FreshSpec:
    """How many fresh samples are wanted; at_most: whether fewer will do."""

    count: int
    at_most: bool = False

    def check(self, count: int, why: str) -> None:
        """Refuse fewer samples than are wanted, where they will not do.

        Args:
            count: samples that there are.
            why: there are no more, in words.

        Raises:
            DataError: they do not suffice.
        """
        if count < self.count and not self.at_most:
            raise DataError(
                f"end_to_end.nsamples: only {count} of {self.count} fresh samples are there "
                f"({why}): lower it or calibration.nsamples, set it to auto, which takes what is "
                "there, or name another text in end_to_end.dataset"
            )


def draw_with_fresh(
    spec: str | Sequence[str],
    tokenizer: Tokenizer | None,
    *,
    nsamples: int,
    fresh: FreshSpec,
    seqlen: int,
    seed: int,
    vocab_size: int | None = None,
) -> tuple[Tokens, Tokens | None]:
    """Draw calibration samples as ever, and fresh ones from what they left of the datasets.

    Args:
        spec: one or more strings of the dataset grammar.
        tokenizer: of the model; None serves datasets of token ids.
        nsamples: calibration samples.
        fresh: samples beside them; of several datasets each gives its share as it does for the
            calibration.
        seqlen: tokens of each.
        seed: decides which samples are taken and their order.
        vocab_size: ids from there on are refused; None: no check.

    Returns:
        The calibration's tokens, and the fresh ones; None where fewer than LEAST are left.

    Raises:
        DataError: a dataset is missing, unreadable, malformed or too short.
    """
    drawn = draw_datasets(
        spec, tokenizer, nsamples=nsamples, seqlen=seqlen, seed=seed, vocab_size=vocab_size
    )
    more = _draw_on(drawn, fresh.count)
    left = sum(len(draw.samples) for draw in more.drawn)
    labels = ", ".join(source.label for source in drawn.sources)
    fresh.check(left, f"{labels} has no more after the {nsamples} of the calibration")
    if left < LEAST:
        return drawn.tokens(seed=seed), None
    return drawn.tokens(seed=seed), more.tokens(seed=f"{seed}/fresh")


def _draw_on(before: DatasetDraw, count: int) -> DatasetDraw:
    """Draw more samples from the same datasets; where one ends, the others fill."""
    share = [len(draw.samples) for draw in before.drawn]
    total, wishes, drawn = sum(share), [], []
    left = count
    # What the last ones lack the first ones fill: they are asked again with what is missing.
    for index in range(len(share)):
        part = left * share[index] // max(1, total)
        wishes.append(replace(before.wishes[index], count=part, after=before.wishes[index].count))
        drawn.append(_draw(before, index, wishes[-1]))
        left -= len(drawn[-1].samples)
        total -= share[index]
    for index in range(len(share)):
        got = len(drawn[index].samples)
        if left and got == wishes[index].count:
            wishes[index] = replace(wishes[index], count=got + left)
            drawn[index] = _draw(before, index, wishes[index])
            left -= len(drawn[index].samples) - got
    return replace(before, wishes=wishes, drawn=drawn, filled=())


def _draw(draw: DatasetDraw, index: int, wish: SampleSpec) -> Sampled:
    if not wish.count:
        return replace(draw.drawn[index], samples=[])
    return sample(draw.specs[index], draw.sources[index], encoder=draw.encoder, wish=wish)


def refuse_shared_text(fresh: str | Sequence[str], calibration: str | Sequence[str]) -> None:
    """Refuse a dataset for fresh samples that the calibration reads, too.

    Args:
        fresh: what ``end_to_end.dataset`` names.
        calibration: what ``calibration.dataset`` names.

    Raises:
        DataError: they share a dataset; auto draws from that without taking a sample twice.
    """
    known = parse_datasets(calibration)
    for spec in parse_datasets(fresh):
        # Splits that nobody named may be any.
        if any(
            spec.name == other.name
            and not (spec.splits and other.splits and set(spec.splits).isdisjoint(other.splits))
            for other in known
        ):
            raise DataError(
                f"end_to_end.dataset: the calibration reads {spec.name}, too; leave it at auto, "
                "which goes on after the samples of the calibration"
            )


def split_rows(tokens: Tokens, nsamples: int) -> tuple[Tokens, Tokens | None]:
    """Divide samples into those of the calibration, which come first, and fresh ones.

    Args:
        tokens: of both, of one width.
        nsamples: samples of the calibration; fewer where there are no more.

    Returns:
        Both; None where fewer than LEAST are left.
    """
    first, rest = (_rows(tokens, part) for part in (slice(nsamples), slice(nsamples, None)))
    if len(rest.ids) < LEAST:
        return first, None
    return first, replace(rest, description=f"{len(rest.ids)} samples after those")


def _rows(tokens: Tokens, part: slice) -> Tokens:
    return replace(
        tokens, ids=tokens.ids[part], lengths=tokens.lengths[part], media=tokens.media[part]
    )
