"""The time of a run, from a few steps and samples of one of its blocks of each kind.

A probe tunes a block by the code that a run tunes it with, on its first samples and for a few
steps, and scales each phase by what it grows with: steps, samples, or nothing. It writes nothing.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from autoround.events import Event, StepDone, ignore
from autoround.model.files.random_source import RandomSource
from autoround.model.runner import BlockRunner
from autoround.planning.tail import JOURNAL_RATE, load_seconds, tail_seconds
from autoround.planning.work import PlanWork, plan_work
from autoround.preparation import Prepared, computing
from autoround.resume.commit import pack_unit
from autoround.session.activations import ActivationStreams
from autoround.session.prefetch import BlockPrefetcher
from autoround.session.session import Placement, Session, make_runner
from autoround.settings import EndToEndSettings
from autoround.tuning.block import (
    FORWARD,
    FORWARD_QUANTIZED,
    INITIALISE,
    JUDGE,
    READ,
    TUNE,
    BlockTuner,
)
from autoround.tuning.first_inputs import open_streams
from autoround.tuning.phase_clock import PhaseClock
from autoround.tuning.step_memory import refuse_full_memory
from autoround.types import BlockPlan, Estimate

#: Steps of a probe: some to warm up, and those that are timed; more where a device runs ahead.
WARM_UP, TIMED, TIMED_ON_DEVICE = 2, 3, 12
#: Kinds of blocks that are measured at most; blocks of others count by their weights.
MOST_KINDS = 3
#: A block that took less is tuned again where nothing is compiled, too: what the first products of
#: a process take once is nothing beside a longer one.
REPEATED = 10.0
#: A probe's range: the pace of a machine changes while hours pass.
LOW, HIGH = 0.8, 1.25
#: Phases that a clock of ours adds to those of a block.
EMBED, PACK = "embed", "pack"
#: What the phase of tuning is told as, and phases that are passes through a block.
STEPS, REST = "steps", "validation and rounding"
PASSES = (FORWARD, FORWARD_QUANTIZED, STEPS, REST)


@dataclass(frozen=True)
class BlockTimes:
    """Seconds of one block of the whole run, by phase, and what its first one takes once."""

    phases: dict[str, float]
    once: float = 0.0

    @property
    def seconds(self) -> float:
        """Of a block that is not the first."""
        return sum(self.phases.values())

    @property
    def products(self) -> float:
        """What passes through the block take: neither reading nor initialising it, nor packing."""
        return sum(self.phases.get(name, 0.0) for name in PASSES)


def probe_time(prepared: Prepared, *, clock: Callable[[], float] = time.perf_counter) -> Prepared:
    """Measure a block of each kind in each pass, and scale it to the whole run.

    Nothing is written, and of a model whose weights are not here none are fetched: random ones take
    their places.

    Args:
        prepared: the run.
        clock: seconds that only ever grow; those of the processor leave out what else runs.

    Returns:
        The run with an estimate whose range of seconds is measured; ``probed`` has its parts.

    Raises:
        AutoRoundError: whatever would stop the run at its first block.
    """
    request, plan, estimate = prepared.request, prepared.plan, prepared.estimate
    phases: dict[str, float] = {}
    passes = (plan, *plan.passes[1:])
    with computing(request):
        try:
            for one_pass in passes:
                session = Session(
                    one_pass,
                    request.skeleton,
                    request.runtime,
                    prepared.calibration.tokens,
                    ignore,
                    placement=Placement.of(estimate, stored=False),
                )
                for name, seconds in _probe_pass(session, estimate, len(passes), clock):
                    phases[name] = phases.get(name, 0.0) + seconds
        except RuntimeError as error:
            refuse_full_memory(error, request.runtime)
            raise
    total = sum(phases.values())
    measured = replace(
        estimate,
        seconds_low=LOW * total,
        seconds_high=HIGH * total,
        probed=tuple(phases.items()),
    )
    return replace(prepared, estimate=measured)


def _probe_pass(
    session: Session, estimate: Estimate, passes: int, clock: Callable[[], float]
) -> Iterator[tuple[str, float]]:
    """Give the seconds of one pass, by phase."""
    plan, watch = session.plan, PhaseClock(session.runtime.synchronize, clock=clock)
    probe = _shorten(session)
    runner = make_runner(probe)
    streams = None
    if probe.tokens is not None:
        with watch.measure(EMBED):
            streams = open_streams(probe, runner)
        yield EMBED, watch.seconds[EMBED] + _embed_more(session, probe, runner, clock)
    kinds = _kinds(plan.blocks)
    blocks_seconds, products, measured_weights = 0.0, 0.0, 0
    for members in kinds[:MOST_KINDS]:
        tuner = _Tuner(probe, runner, streams, clock)
        times = tuner.times(session, members[(len(members) - 1) // 2])
        for name, seconds in times.phases.items():
            # After the last block of all only a tuned head reads the quantized stream.
            ends = name == FORWARD_QUANTIZED and plan.blocks[-1] in members
            count = len(members) - (ends and not plan.tuning.tuned_head)
            yield name, seconds * count
        if times.once:
            yield "first block", times.once
        blocks_seconds += times.seconds * len(members)
        products += times.products * len(members)
        measured_weights += sum(map(_weights, members))
    others = sum(_weights(block) for members in kinds[MOST_KINDS:] for block in members)
    yield "other blocks", blocks_seconds * others / measured_weights
    more = 1 + others / measured_weights
    yield from _around_blocks(
        session, estimate, passes, blocks_seconds=blocks_seconds * more, products=products * more
    )


def _embed_more(
    session: Session, probe: Session, runner: BlockRunner, clock: Callable[[], float]
) -> float:
    """Return the seconds of embedding the samples that a probe leaves out.

    What opening the streams takes once, as is reading the embeddings, does not grow with samples.
    """
    assert probe.tokens is not None
    watch = PhaseClock(session.runtime.synchronize, clock=clock)
    ids, media = probe.tokens.ids, probe.tokens.media
    runner.embed(ids[:1], media[:1])
    with watch.measure(EMBED):
        runner.embed(ids, media)
    runner.release()
    return watch.seconds[EMBED] * (_samples_ratio(session, probe) - 1)


def _around_blocks(
    session: Session, estimate: Estimate, passes: int, *, blocks_seconds: float, products: float
) -> Iterator[tuple[str, float]]:
    """Give the seconds of what no block shows, by its work beside theirs or by its bytes.

    products: seconds that passes through the blocks take, of all of their seconds.
    """
    plan = session.plan
    work: PlanWork = plan_work(plan)
    pace = products / work.blocks if work.blocks else 0.0
    weights = sum(map(_weights, plan.blocks))
    head = sum(math.prod(layer.shape) for layer in session.non_block_layers)
    if head:
        yield "outside the blocks", blocks_seconds * head / weights
    if work.fresh:
        yield "fresh samples", work.fresh * pace
    if work.end_to_end:
        yield "end to end", work.end_to_end * pace
    if estimate.journal:
        kept = estimate.journal_bytes - 2 * estimate.stream_bytes
        yield "journal", (kept / passes + _saved_streams(session, estimate)) / JOURNAL_RATE
    yield "write and verify", tail_seconds(plan, estimate.disk_bytes / passes)
    if work.gate:
        yield "gate", work.gate * pace + load_seconds(estimate.source_bytes)


def _saved_streams(session: Session, estimate: Estimate) -> float:
    """Return the bytes of streams that a pass saves: on a CPU after each block."""
    if session.runtime.own_memory:
        return 0.0
    return float(len(session.plan.blocks) * estimate.stream_bytes)


def _shorten(session: Session) -> Session:
    """Return a pass of few samples and steps that reads nothing from the hub and keeps nothing."""
    tuning, tokens = session.tuning, session.tokens
    steps = WARM_UP + (TIMED_ON_DEVICE if session.runtime.own_memory else TIMED)
    rows = 0
    if tokens is not None:
        needed = max(tuning.batch_size, tuning.forward_batch_size, tuning.validation_samples)
        rows = min(needed, len(tokens.ids))
        tokens = replace(
            tokens,
            ids=tokens.ids[:rows],
            lengths=tokens.lengths[:rows],
            media=tokens.media[:rows],
        )
    shorter = replace(
        tuning,
        iters=min(tuning.iters, steps),
        num_validations=1,
        nsamples=rows,
        end_to_end=EndToEndSettings(),
    )
    skeleton = session.skeleton
    absent = skeleton.hub is not None and bool(skeleton.hub.missing())
    if absent or skeleton.stream is not None:
        drawn = RandomSource(skeleton.source.headers())
        skeleton = replace(skeleton, source=drawn, hub=None, stream=None)
    return replace(
        session,
        plan=replace(session.plan, tuning=shorter),
        tokens=tokens,
        skeleton=skeleton,
        store=None,
        placement=Placement(streams_on_device=session.placement.streams_on_device),
    )


class _Tuner:
    """Tunes blocks of a probe, and times their phases."""

    def __init__(
        self,
        probe: Session,
        runner: BlockRunner,
        streams: ActivationStreams | None,
        clock: Callable[[], float],
    ) -> None:
        self._probe, self._runner, self._streams = probe, runner, streams
        self._clock = clock

    def times(self, session: Session, block: BlockPlan) -> BlockTimes:
        """Tune a block for a few steps; returns its seconds in the whole run."""
        probe = self._probe
        phases, step = self._tune(block)
        taken, once = sum(phases.values()), 0.0
        if probe.plan.compiled or probe.runtime.own_memory or taken < REPEATED:
            phases, step = self._tune(block)
            once = max(0.0, taken - sum(phases.values()))
        return BlockTimes(_scale(session, probe, phases, step), once)

    def _tune(self, block: BlockPlan) -> tuple[dict[str, float], float]:
        """Tune and pack a block; returns the seconds of its phases, and of one of its steps."""
        steps: list[float] = []

        def note(event: Event) -> None:
            if isinstance(event, StepDone):
                steps.append(self._clock())

        session = replace(self._probe, sink=note)
        watch = PhaseClock(session.runtime.synchronize, clock=self._clock)
        prefetcher = BlockPrefetcher(session)
        tuner = BlockTuner(session, self._runner, self._streams, prefetcher, clock=watch)
        output = tuner.tune(block)
        with watch.measure(PACK):
            pack_unit(session, output)
        session.runtime.release()
        return watch.seconds, _step_seconds(steps)


def _step_seconds(told: Sequence[float]) -> float:
    """Return the seconds of a step from the times at which steps were told of.

    The last one is told of before the validation that follows it.
    """
    spans = [later - earlier for earlier, later in itertools.pairwise(told)]
    timed = spans[WARM_UP - 1 :] or spans
    return statistics.fmean(timed) if timed else 0.0


def _scale(
    session: Session, probe: Session, phases: dict[str, float], step: float
) -> dict[str, float]:
    """Scale the phases of a probe to those of the run, each by what it grows with."""
    tuning, short = session.tuning, probe.tuning
    samples = _samples_ratio(session, probe)
    scaled = {name: phases[name] for name in (READ, INITIALISE, JUDGE, PACK) if name in phases}
    for name in (FORWARD, FORWARD_QUANTIZED):
        if name in phases:
            scaled[name] = phases[name] * samples
    if TUNE in phases:
        # What is no step: two validations, as a forward pass of as many samples, and rounding.
        rest = max(0.0, phases[TUNE] - short.iters * step)
        passed = phases.get(FORWARD_QUANTIZED, phases.get(FORWARD, 0.0)) / max(1, short.nsamples)
        further = (tuning.num_validations - short.num_validations) * tuning.validation_samples
        scaled[STEPS] = tuning.iters * step
        scaled[REST] = rest + (passed * further if tuning.iters else 0.0)
    return scaled


def _samples_ratio(session: Session, probe: Session) -> float:
    """Return how many times the samples of a probe the run has."""
    if session.tokens is None or probe.tokens is None:
        return 1.0
    return len(session.tokens.ids) / len(probe.tokens.ids)


def _kinds(blocks: Sequence[BlockPlan]) -> list[list[BlockPlan]]:
    """Return the blocks by what their work depends on, those with the most weights first."""
    kinds: dict[tuple[object, ...], list[BlockPlan]] = {}
    for block in blocks:
        key = tuple((x.path, x.shape, x.experts, x.scheme) for x in block.layers)
        kinds.setdefault(key, []).append(block)
    return sorted(kinds.values(), key=lambda members: -sum(map(_weights, members)))


def _weights(block: BlockPlan) -> int:
    return sum(math.prod(layer.shape) for layer in block.layers)
