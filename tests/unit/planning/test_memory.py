"""What a run holds in memory, and what goes to the disk where that is too much."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from autoround.core.metrics import weight_bits
from autoround.device.protocol import Memory
from autoround.device.registry import open_device
from autoround.errors import UsageError
from autoround.model.skeleton import Skeleton, adopt_model
from autoround.planning.device_memory import device_peaks
from autoround.planning.memory import (
    BASE_BYTES,
    COMPILER_BYTES,
    GRAPHS_SHARE,
    PRIMITIVE_BYTES,
    PRIMITIVE_ROW_BYTES,
    PRIMITIVES,
    SHARE,
    MemoryNeeds,
    graphs_fit,
    host_budget,
    memory_needs,
    memory_warnings,
    offload_to_disk,
    refuse_too_little,
    streams_fit_device,
)
from autoround.planning.plan import make_plan
from autoround.types import Estimate, Plan

from ...runs import NEAREST, small
from ...tiny import HIDDEN, make_model

#: Of the tiny Llama: all weights of a block, and all numbers outside of the blocks.
BLOCK = 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 96
OUTSIDE = 2 * 128 * 64 + 64
NEEDS = MemoryNeeds(block=100, streams=40, codes=30, device=100, journal=0, graphs=50)
ESTIMATE = Estimate(0, 0, 4_000_000_000, 0.0, 0.0, 4.0, device_bytes=3_000_000_000)


@dataclass(frozen=True)
class Device:
    """As much of a runtime as is asked about memory."""

    free: int
    own_memory: bool
    device: torch.device

    def memory(self) -> Memory:
        return Memory(self.free, self.free)


def device(free: int, *, own: bool = True, kind: str = "meta") -> Any:
    return Device(free, own, torch.device(kind))


def planned(values: dict[str, object] | None = None) -> tuple[Plan, Skeleton]:
    skeleton = adopt_model(make_model("llama"))
    runtime = open_device("cpu")
    return make_plan(small(values), skeleton, runtime=runtime, calibration="", model=""), skeleton


def needs(values: dict[str, object] | None = None, *, own: bool = False) -> MemoryNeeds:
    return memory_needs(*planned(values), device(0, own=own))


def test_rounding_without_data_needs_a_block_and_the_embeddings() -> None:
    found = needs(NEAREST)
    assert found == MemoryNeeds(BASE_BYTES + OUTSIDE * 4 + BLOCK * 4 * 4, 0, 0, 0, 0)


def test_streams_are_two_chains_of_activations_in_the_compute_dtype() -> None:
    wide, narrow = (needs({"tuning.compute_dtype": d}) for d in ("float32", "bfloat16"))
    assert wide.streams == 2 * narrow.streams == 2 * 4 * 16 * HIDDEN * 4


def test_the_journal_has_the_codes_of_all_blocks_and_the_streams_twice() -> None:
    plan, _ = planned()
    layers = [x for block in plan.blocks for x in block.quantized]
    codes = sum(weight_bits(x.shape, x.scheme) // 8 for x in layers if x.scheme)
    stream = 4 * 16 * HIDDEN * 4
    assert needs().journal == codes + 2 * 2 * stream
    assert needs({"tuning.quantized_inputs": False}).journal == codes + 2 * stream


def test_what_is_tuned_is_on_the_host_or_on_a_device_of_its_own() -> None:
    host, own = needs(), needs(own=True)
    assert host.device == 0
    assert own.block == BASE_BYTES + OUTSIDE * 4 + BLOCK * 4 * 2
    # The phase of the highest peak, with embeddings gone where it is another.
    plan, skeleton = planned()
    peaks = device_peaks(plan, skeleton).on(0)
    assert own.device == peaks[own.device_phase] == max(peaks.values())


def test_low_memory_spares_copies_on_a_device_alone() -> None:
    plain, sparing = (
        needs({"tuning.low_memory": low, "tuning.batch_size": 1}, own=True) for low in (False, True)
    )
    assert sparing.device < plain.device
    # What the plan without it says of it is what the plan with it says.
    assert plain.device_low == sparing.device == sparing.device_low
    assert needs({"tuning.low_memory": True, "tuning.batch_size": 1}).block == (
        needs({"tuning.batch_size": 1}).block
    )


def test_gptq_needs_products_of_all_pairs_of_inputs() -> None:
    plain = needs({"tuning.init_rounding": "nearest"})
    gptq = needs({"tuning.init_rounding": "gptq"})
    pairs = 6 * 64**2 + 96**2
    assert gptq.block - plain.block == 4 * (pairs + 3 * 96**2 + BLOCK)


def test_a_compiler_leaves_something_in_memory() -> None:
    plan, skeleton = planned()
    compiled = replace(plan, tuning=replace(plan.tuning, compiled=True))
    host = device(0, own=False)
    found = memory_needs(compiled, skeleton, host).block - memory_needs(plan, skeleton, host).block
    assert found == COMPILER_BYTES


def test_products_of_routed_experts_are_kept_by_shape_on_a_processor_in_16_bit() -> None:
    skeleton, runtime = adopt_model(make_model("qwen2_moe")), open_device("cpu")

    def block(dtype: str, *, own: bool = False) -> int:
        recipe = small({"tuning.compute_dtype": dtype, "tuning.iters": 10_000})
        plan = make_plan(recipe, skeleton, runtime=runtime, calibration="", model="")
        return memory_needs(plan, skeleton, device(0, own=own)).block

    wide, narrow = block("float32"), block("bfloat16")
    assert narrow - wide > PRIMITIVES * PRIMITIVE_BYTES
    assert narrow - wide < PRIMITIVES * (PRIMITIVE_BYTES + PRIMITIVE_ROW_BYTES * 4 * 16 * 2)
    assert block("bfloat16", own=True) == block("float32", own=True)


def test_a_forward_pass_alone_holds_fewer_activations() -> None:
    steps, none = (
        needs({"tuning.iters": n, "tuning.init_scale": "search", "calibration.seqlen": 4096})
        for n in (1, 0)
    )
    assert steps.block > none.block > BASE_BYTES


def test_tuning_the_whole_model_needs_all_codes_and_graphs_grow_with_the_batch() -> None:
    assert (needs().codes, needs().graphs) == (0, 0)
    one, two = (needs({"end_to_end.steps": 3, "end_to_end.batch_size": n}) for n in (1, 2))
    assert one.codes == two.codes == 2 * BLOCK
    assert one.graphs < two.graphs < 2 * one.graphs
    moved = needs({"end_to_end.steps": 3, "end_to_end.tune_codes": True})
    assert moved.codes == 0
    assert moved.block >= needs({"end_to_end.steps": 3}).block


@pytest.mark.parametrize(
    ("budget", "wanted"),
    [
        (None, (False, False)),
        (170, (False, False)),
        (169, (True, False)),
        (130, (True, False)),
        (129, (True, True)),
        (1, (True, True)),
    ],
)
def test_streams_go_to_the_disk_first_and_codes_only_where_that_is_too_little(
    budget: int | None, wanted: tuple[bool, bool]
) -> None:
    assert offload_to_disk(NEEDS, budget) == wanted


def test_what_is_not_there_does_not_go_to_the_disk() -> None:
    assert offload_to_disk(NEEDS._replace(streams=0), 1) == (False, False)
    assert offload_to_disk(NEEDS._replace(codes=0), 1) == (True, False)


def test_streams_stay_on_a_device_that_has_room_beside_all_else() -> None:
    plan, _ = planned()
    room = math.ceil((NEEDS.device + NEEDS.streams) / SHARE)
    assert streams_fit_device(NEEDS, plan, device(room))
    assert not streams_fit_device(NEEDS, plan, device(room - 2))
    assert not streams_fit_device(NEEDS, plan, device(room, own=False))
    assert not streams_fit_device(NEEDS._replace(streams=0), plan, device(room))
    sparing, _ = planned({"tuning.low_memory": True})
    assert not streams_fit_device(NEEDS, sparing, device(10 * room))


def test_graphs_are_held_within_their_share_and_what_is_left() -> None:
    plan, _ = planned()
    host = device(0, own=False)
    beside = NEEDS.block + NEEDS.streams + NEEDS.codes
    enough = max(beside + NEEDS.graphs, math.ceil(NEEDS.graphs / GRAPHS_SHARE))
    assert graphs_fit(NEEDS, plan, host, enough)
    assert not graphs_fit(NEEDS, plan, host, enough - 1)
    assert not graphs_fit(NEEDS, plan, host, None)
    assert not graphs_fit(NEEDS._replace(graphs=0), plan, host, 10 * enough)
    # Of a device, its own memory counts, whatever the host has.
    assert graphs_fit(NEEDS, plan, device(10 * enough), None)
    assert not graphs_fit(NEEDS, plan, device(100), 10 * enough)


def test_the_budget_is_what_is_asked_or_most_of_what_is_free() -> None:
    assert host_budget(device(1000, own=False, kind="cpu"), None) == 900
    assert host_budget(device(1000, own=False, kind="cpu"), 7) == 7
    assert host_budget(device(0, own=False, kind="cpu"), None) is None
    assert host_budget(device(1000, own=False, kind="meta"), None) is None
    # A device's own memory is not the host's.
    found = host_budget(device(1, kind="cuda"), None)
    assert found is not None
    assert found > 1 << 20


def test_too_small_a_budget_is_refused_with_both_figures() -> None:
    refuse_too_little(ESTIMATE, None)
    refuse_too_little(ESTIMATE, ESTIMATE.memory_bytes)
    with pytest.raises(UsageError, match=r"about 4.0 GB .* --max-memory allows 3.9 GB"):
        refuse_too_little(ESTIMATE, 3_900_000_000)


def test_short_memory_is_told_of_the_host_and_of_the_device() -> None:
    plan, _ = planned()
    assert memory_warnings(ESTIMATE, plan, device(5 << 30), None) == []
    both = memory_warnings(ESTIMATE, plan, device(2_000_000_000), 900_000_000)
    assert both == [
        "about 4.0 GB of memory will be needed, and 1.0 GB are free: lower tuning.batch_size or "
        "calibration.seqlen",
        "about 3.0 GB of memory on meta will be needed, and 2.0 GB are free: lower "
        "tuning.batch_size or calibration.seqlen, or take --low-memory",
    ]
    less = replace(ESTIMATE, low_device_bytes=1_500_000_000)
    (one,) = memory_warnings(less, plan, device(2_000_000_000), None)
    assert one.endswith("or take --low-memory, which needs about 1.5 GB")
    sparing, _ = planned({"tuning.low_memory": True})
    (one,) = memory_warnings(ESTIMATE, sparing, device(2_000_000_000), None)
    assert "--low-memory" not in one
    # Free memory that a backend cannot tell is no warning.
    assert memory_warnings(ESTIMATE, plan, device(0), None) == []


FRESH: dict[str, object] = {"end_to_end.steps": 2, "end_to_end.nsamples": 12}


def test_fresh_samples_are_one_more_stream_which_no_device_holds() -> None:
    plain, fresh = (needs({"end_to_end.steps": 2, "end_to_end.nsamples": n}) for n in (0, 12))
    stream = 12 * 16 * HIDDEN * 4
    assert (plain.fresh, fresh.fresh) == (0, stream)
    assert fresh.journal - plain.journal == 2 * stream
    assert fresh._replace(fresh=0, journal=plain.journal) == plain
    own = needs(FRESH, own=True)
    assert own.device == needs({"end_to_end.steps": 2}, own=True).device
    assert own.fresh == stream


def test_fresh_samples_go_to_the_disk_with_the_streams() -> None:
    beside = NEEDS.block + NEEDS.streams + NEEDS.codes
    needed = NEEDS._replace(fresh=7)
    assert offload_to_disk(needed, beside + 7) == (False, False)
    assert offload_to_disk(needed, beside + 6) == (True, False)
    assert offload_to_disk(needed._replace(streams=0), beside - NEEDS.streams + 6) == (True, False)
