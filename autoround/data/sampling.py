"""Draw samples of one length from one dataset.

Two ways. Documents: every record is one sample, cut at ``seqlen``; shorter ones are left out.
Concatenated: the ids of the records follow each other and are cut into windows of ``seqlen``.
A sample whose last id fills more than half of it is left out either way: it teaches nothing.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from autoround.data.encode import Encoder
from autoround.data.records import Record, Text, size
from autoround.data.rows import RowReader
from autoround.data.sources import Source
from autoround.data.spec import DatasetSpec
from autoround.errors import DataError

#: Records that are shuffled with each other; a longer dataset is shuffled pool by pool.
POOL_RECORDS = 10_000
#: Memory that such a pool holds at most (its last record may go over).
POOL_BYTES = 64 * 2**20
#: Bytes of records after which the search for long enough ones ends.
SCAN_BYTES = 2**30
#: Windows of a running text are chosen among this many times what is needed.
CHOICE = 4
#: How the note begins that says so of windows that overlap.
OVERLAPPING = "overlapping windows"
#: Overlapping windows start at least this fraction of a window apart.
SMALLEST_STEP = 16


@dataclass(frozen=True, slots=True)
class Sampled:
    """Samples of exactly the asked length, and what is worth saying about them.

    longest: ids in the longest document met (documents), or in the text (concatenated).
    repetitive: samples that were long enough, and left out because one id fills them.
    left_out: how many records could not be used, and why; part of the notes too.
    """

    samples: list[list[int]]
    notes: tuple[str, ...]
    longest: int
    repetitive: int = 0
    left_out: str = ""


@dataclass(frozen=True, slots=True)
class SampleSpec:
    """What to draw: ``count`` samples of ``seqlen`` ids, in an order that ``seed`` decides.

    after: the count of a draw from the same dataset that these samples come after: they share no
    text with it.
    """

    count: int
    seqlen: int
    seed: str
    after: int = 0


def sample(spec: DatasetSpec, source: Source, *, encoder: Encoder, wish: SampleSpec) -> Sampled:
    """Draw at most ``wish.count`` samples; equal arguments give equal samples.

    Raises: DataError when the dataset is empty or unreadable.
    """
    if wish.seqlen <= len(encoder.prefix):
        raise DataError(
            f"a sample of {wish.seqlen} tokens has no room for text beside the "
            f"{len(encoder.prefix)} special tokens the tokenizer starts with: raise --seqlen"
        )
    rng = random.Random(wish.seed)
    concat = source.running if spec.concat is None else spec.concat
    if source.running:
        draw = _running_on if wish.after else _running
        drawn = draw(source, encoder, wish=wish, rng=rng, concat=concat)
    elif concat:
        drawn = _joined(spec, source, encoder=encoder, wish=wish, rng=rng)
    else:
        drawn = _documents(spec, source, encoder=encoder, wish=wish, rng=rng)
    if drawn.longest == 0:
        if drawn.left_out:
            raise DataError(
                f"dataset {source.label}: none of its records can be used: {drawn.left_out}. "
                "Change the records, or name another dataset"
            )
        raise DataError(f"dataset {source.label} holds no text: name another dataset")
    return drawn


def _documents(
    spec: DatasetSpec, source: Source, *, encoder: Encoder, wish: SampleSpec, rng: random.Random
) -> Sampled:
    samples: list[list[int]] = []
    longest = repetitive = 0
    reader = RowReader(spec, encoder)
    for record in shuffled(source.records(), rng):
        ids = reader.document(record, wish.seqlen)
        longest = max(longest, len(ids))
        if len(ids) < wish.seqlen:
            continue
        if degenerate(ids):
            repetitive += 1
            continue
        samples.append(ids)
        if len(samples) == wish.after + wish.count:
            break
    return Sampled(samples[wish.after :], reader.notes, longest, repetitive, reader.left_out)


def _joined(
    spec: DatasetSpec, source: Source, *, encoder: Encoder, wish: SampleSpec, rng: random.Random
) -> Sampled:
    body = wish.seqlen - len(encoder.prefix)
    samples: list[list[int]] = []
    buffer: list[int] = []
    total = repetitive = 0
    reader = RowReader(spec, encoder)
    for record in shuffled(source.records(), rng):
        # Up to the draw before this one records are read as for it alone: to the same place.
        goal = wish.after if len(samples) < wish.after else wish.after + wish.count
        missing = (goal - len(samples)) * body - len(buffer)
        # Twice what is missing, because some windows may be left out.
        ids = reader.body(record, 2 * missing)
        total += len(ids)
        buffer += ids
        whole = len(buffer) - len(buffer) % body
        windows = _windows(buffer, range(0, whole, body), body=body, prefix=encoder.prefix)
        repetitive += whole // body - len(windows)
        samples += windows
        del buffer[:whole]
        if len(samples) >= wish.after + wish.count:
            break
    notes = ("concatenated", *reader.notes)
    chosen = samples[wish.after : wish.after + wish.count]
    return Sampled(chosen, notes, total, repetitive, reader.left_out)


def _running(
    source: Source, encoder: Encoder, *, wish: SampleSpec, rng: random.Random, concat: bool
) -> Sampled:
    body = wish.seqlen - len(encoder.prefix)
    limit = CHOICE * wish.count * body if concat else body
    texts = (record.text for record in source.records() if isinstance(record, Text))
    ids = encoder.text_ids(texts, limit, where=source.label)
    if not concat:
        sample = [*encoder.prefix, *ids, *encoder.suffix][: wish.seqlen]
        long_enough = len(sample) == wish.seqlen
        good = long_enough and not degenerate(sample)
        repetitive = int(long_enough and not good)
        return Sampled([sample] if good else [], ("one document",), len(ids), repetitive)
    starts: Sequence[int] = range(0, len(ids) - body + 1, body)
    windows = _windows(ids, starts, body=body, prefix=encoder.prefix)
    notes = ["concatenated"]
    if len(ids) == limit:
        notes.append(f"from its first {limit} tokens")
    if len(windows) < wish.count and source.may_overlap and wish.count > 1:
        room = len(ids) - body
        if room // (wish.count - 1) >= max(1, body // SMALLEST_STEP):
            starts = [index * room // (wish.count - 1) for index in range(wish.count)]
            windows = _windows(ids, starts, body=body, prefix=encoder.prefix)
            notes.append(f"{OVERLAPPING} of a text of {len(ids)} tokens")
    repetitive = len(starts) - len(windows)
    return Sampled(_spread(windows, wish.count, rng=rng), tuple(notes), len(ids), repetitive)


def _running_on(
    source: Source, encoder: Encoder, *, wish: SampleSpec, rng: random.Random, concat: bool
) -> Sampled:
    """Draw from the windows of a running text that the draw before left, and from those after."""
    before = _running(
        source, encoder, wish=replace(wish, count=wish.after, after=0), rng=rng, concat=concat
    )
    if not concat or any(note.startswith(OVERLAPPING) for note in before.notes):
        return replace(before, samples=[])
    body = wish.seqlen - len(encoder.prefix)
    limits = [CHOICE * count * body for count in (wish.after, wish.after + wish.count)]
    texts = (record.text for record in source.records() if isinstance(record, Text))
    ids = encoder.text_ids(texts, limits[1], where=source.label, pieces_for=limits[0])
    starts = range(0, len(ids) - body + 1, body)
    windows = _windows(ids, starts, body=body, prefix=encoder.prefix)
    taken = set(map(tuple, before.samples))
    left = [window for window in windows if tuple(window) not in taken]
    notes = ("concatenated",)
    repetitive = len(starts) - len(windows)
    return Sampled(_spread(left, wish.count, rng=rng), notes, len(ids), repetitive)


def _windows(
    ids: list[int], starts: Sequence[int], *, body: int, prefix: tuple[int, ...]
) -> list[list[int]]:
    windows = ([*prefix, *ids[start : start + body]] for start in starts)
    return [window for window in windows if not degenerate(window)]


def _spread(windows: list[list[int]], count: int, *, rng: random.Random) -> list[list[int]]:
    """Choose one window of each of ``count`` equal stretches, in random order."""
    if len(windows) > count:
        edges = [index * len(windows) // count for index in range(count + 1)]
        windows = [windows[rng.randrange(low, high)] for low, high in itertools.pairwise(edges)]
    rng.shuffle(windows)
    return windows


def shuffled(records: Iterator[Record], rng: random.Random) -> Iterator[Record]:
    """Yield records in random order, holding no more than one pool of them in memory."""
    pool: list[Record] = []
    held = scanned = 0
    for record in records:
        pool.append(record)
        held += size(record)
        if len(pool) < POOL_RECORDS and held < POOL_BYTES:
            continue
        scanned += held
        rng.shuffle(pool)
        yield from pool
        pool, held = [], 0
        if scanned >= SCAN_BYTES:
            return
    rng.shuffle(pool)
    yield from pool


def degenerate(ids: list[int]) -> bool:
    """Tell whether the last id fills more than half of a sample."""
    return 2 * ids.count(ids[-1]) > len(ids)
