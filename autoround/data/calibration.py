"""Calibration tokens from datasets that are named, drawn in the shares that were asked."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from autoround.data.encode import Encoder, Tokenizer, make_encoder
from autoround.data.sampling import Sampled, SampleSpec, sample
from autoround.data.sources import Source, open_source
from autoround.data.spec import DatasetSpec, parse_datasets
from autoround.data.tokens import Tokens, build_tokens
from autoround.errors import DataError

_TIMES = "\N{MULTIPLICATION SIGN}"


@dataclass(frozen=True, slots=True)
class DatasetDraw:
    """Samples drawn from datasets, and what it takes to draw more.

    wishes: what was drawn of each dataset. filled: notes on datasets that others had to fill up.
    """

    specs: Sequence[DatasetSpec]
    sources: Sequence[Source]
    encoder: Encoder
    wishes: Sequence[SampleSpec]
    drawn: Sequence[Sampled]
    filled: tuple[str, ...]

    def tokens(self, *, seed: int | str) -> Tokens:
        """Lay the samples out, those of several datasets shuffled by the seed."""
        samples = [sample for one in self.drawn for sample in one.samples]
        if len(self.drawn) > 1:
            random.Random(seed).shuffle(samples)
        seqlen = self.wishes[0].seqlen
        return build_tokens(
            samples,
            seqlen=seqlen,
            pad_id=self.encoder.pad_id,
            description=_describe(self.sources, self.drawn, seqlen=seqlen, filled=self.filled),
        )


def tokens_from_spec(
    spec: str | Sequence[str],
    tokenizer: Tokenizer | None,
    *,
    nsamples: int,
    seqlen: int,
    seed: int,
    vocab_size: int | None = None,
) -> Tokens:
    """Draw ``nsamples`` sequences of exactly ``seqlen`` tokens from the datasets named.

    spec: one or more strings of the dataset grammar. tokenizer: of the model; None serves
    datasets of token ids. seed: decides which samples are taken and their order; equal arguments
    and files give equal tokens. vocab_size: ids from there on are refused; None: no check.

    Returns Tokens without padding: ids int64 [nsamples, seqlen].
    Raises: DataError when a dataset is missing, unreadable, malformed or too short.
    """
    drawn = draw_datasets(
        spec, tokenizer, nsamples=nsamples, seqlen=seqlen, seed=seed, vocab_size=vocab_size
    )
    return drawn.tokens(seed=seed)


def draw_datasets(
    spec: str | Sequence[str],
    tokenizer: Tokenizer | None,
    *,
    nsamples: int,
    seqlen: int,
    seed: int,
    vocab_size: int | None = None,
) -> DatasetDraw:
    """Draw samples as :func:`tokens_from_spec` does, and keep what it takes to draw more."""
    if nsamples < 1 or seqlen < 1:
        raise DataError(f"nsamples={nsamples} and seqlen={seqlen} must both be 1 or more")
    specs = parse_datasets(spec)
    counts = shares(specs, nsamples)
    sources = [open_source(one) for one in specs]
    encoder = make_encoder(tokenizer, vocab_size=vocab_size)
    wishes = [SampleSpec(count, seqlen, f"{seed}/{index}") for index, count in enumerate(counts)]
    drawn = [
        sample(one, source, encoder=encoder, wish=wish)
        for one, source, wish in zip(specs, sources, wishes, strict=True)
    ]
    return _fill(DatasetDraw(specs, sources, encoder, wishes, drawn, ()))


def shares(specs: Sequence[DatasetSpec], nsamples: int) -> list[int]:
    """Return how many samples each dataset gives: its ``num``, or an equal part of the rest.

    Raises: DataError when the nums do not fit ``nsamples``.
    """
    fixed = sum(spec.num for spec in specs if spec.num is not None)
    free = sum(spec.num is None for spec in specs)
    rest = nsamples - fixed
    if rest < free or (free == 0 and rest != 0):
        needed = f"exactly {fixed}" if free == 0 else f"{fixed + free} or more"
        raise DataError(
            f"{len(specs)} dataset{'s' if len(specs) > 1 else ''} with nums that add up to "
            f"{fixed} need nsamples to be {needed}, not {nsamples}: change --nsamples or the nums"
        )
    counts, taken = [], 0
    for spec in specs:
        if spec.num is not None:
            counts.append(spec.num)
        else:
            # The first few take one more when the rest does not divide evenly.
            counts.append(rest // free + (1 if taken < rest % free else 0))
            taken += 1
    return counts


def _fill(draw: DatasetDraw) -> DatasetDraw:
    """Let datasets without num fill what others without num lack, or raise."""
    specs, sources, drawn = draw.specs, draw.sources, list(draw.drawn)
    wishes = list(draw.wishes)
    lacking = [wish.count - len(one.samples) for wish, one in zip(wishes, drawn, strict=True)]
    for index, missing in enumerate(lacking):
        if missing and specs[index].num is not None:
            raise _too_few(sources[index], wishes[index], drawn=drawn[index])
    left = sum(lacking)
    donors = [i for i, spec in enumerate(specs) if spec.num is None and not lacking[i]]
    for index in donors:
        if left:
            wish = wishes[index]
            wishes[index] = replace(wish, count=wish.count + left)
            drawn[index] = sample(
                specs[index], sources[index], encoder=draw.encoder, wish=wishes[index]
            )
            left -= len(drawn[index].samples) - wish.count
    if left:
        first = next(index for index, missing in enumerate(lacking) if missing)
        raise _too_few(sources[first], wishes[first], drawn=drawn[first])
    notes = tuple(
        f"{sources[index].label} has only {len(drawn[index].samples)} of {wishes[index].count}, "
        "the others fill"
        for index, missing in enumerate(lacking)
        if missing
    )
    return replace(draw, wishes=wishes, drawn=drawn, filled=notes)


def _too_few(source: Source, wish: SampleSpec, *, drawn: Sampled) -> DataError:
    joined = "concatenated" in drawn.notes
    what = "text" if joined else "longest document"
    ways = "" if joined else "use ':concat', "
    left_out = f", {drawn.repetitive} left out as one token repeated" if drawn.repetitive else ""
    unusable = f"; {drawn.left_out}" if drawn.left_out else ""
    return DataError(
        f"only {len(drawn.samples)} of {wish.count} samples of dataset {source.label} have "
        f"{wish.seqlen} tokens (its {what} has {drawn.longest}{left_out}{unusable}): {ways}lower "
        "--seqlen or --nsamples, or name a larger dataset"
    )


def _describe(
    sources: Sequence[Source], drawn: Sequence[Sampled], *, seqlen: int, filled: Sequence[str]
) -> str:
    size = f"{sum(len(one.samples) for one in drawn)} {_TIMES} {seqlen} tokens"
    if len(drawn) == 1:
        return ", ".join([sources[0].label, size, *drawn[0].notes])
    parts = [
        ", ".join([f"{source.label} ({len(one.samples)})", *one.notes])
        for source, one in zip(sources, drawn, strict=True)
    ]
    return "; ".join([size, *parts, *filled])
