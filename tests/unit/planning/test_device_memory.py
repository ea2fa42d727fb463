"""Peaks of a device by phase; tests/backends/test_live_bytes.py measures them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from autoround.core.gptq import COLUMNS
from autoround.device.registry import open_device
from autoround.model.skeleton import Skeleton, adopt_model
from autoround.planning import device_memory
from autoround.planning.activations import FLOAT32
from autoround.planning.device_memory import (
    END_TO_END,
    HEAD,
    INPUTS,
    PACKING,
    ROUNDED_UP,
    STARTING,
    TUNING,
    DevicePeaks,
    device_peaks,
    shapes_of,
)
from autoround.planning.plan import make_plan
from autoround.session.session import POSITION_CHUNK
from autoround.tuning import lm_head
from autoround.types import Plan

from ...runs import NEAREST, small
from ...tiny import make_model


def planned(
    values: dict[str, object] | None = None, *, kind: str = "llama"
) -> tuple[Plan, Skeleton]:
    skeleton = adopt_model(make_model(kind))
    runtime = open_device("cpu")
    return make_plan(small(values), skeleton, runtime=runtime, calibration="", model=""), skeleton


def alone(values: dict[str, object] | None = None, *, kind: str = "llama") -> Mapping[str, int]:
    return device_peaks(*planned(values, kind=kind)).alone


def test_what_the_formula_repeats_of_tuning_is_what_tuning_does() -> None:
    assert device_memory.HEAD_WEIGHTS == lm_head.ROWS_ELEMENTS
    assert device_memory.HEAD_STEP == lm_head.STEP_POSITIONS
    assert device_memory.HEAD_POSITIONS == lm_head.POSITIONS
    assert device_memory.LOGIT_POSITIONS == POSITION_CHUNK
    assert device_memory.GPTQ_COLUMNS == COLUMNS


def test_a_recording_stays_for_the_next_block_where_it_leaves_half_of_the_device() -> None:
    peaks = DevicePeaks({TUNING: 50}, {TUNING: 80})
    assert peaks.on(100) == peaks.beside
    assert peaks.on(99) == peaks.alone
    assert peaks.on(0) == peaks.beside, "where nothing is known the bound counts"


def test_blocks_beside_a_recording_need_more_and_a_single_block_has_none() -> None:
    plan, skeleton = planned()
    both = device_peaks(plan, skeleton)
    assert both.beside[STARTING] > both.alone[STARTING]
    single = device_peaks(replace(plan, blocks=plan.blocks[:1]), skeleton)
    assert single.beside == single.alone


@pytest.mark.parametrize("kind", ["llama", "qwen2_moe"])
def test_low_memory_needs_less_in_every_phase_of_a_block(kind: str) -> None:
    plain, low = (
        alone({"tuning.low_memory": low, "tuning.batch_size": 4}, kind=kind)
        for low in (False, True)
    )
    assert all(low[phase] <= plain[phase] for phase in (INPUTS, STARTING, TUNING, PACKING))
    assert low[TUNING] < 0.8 * plain[TUNING]


def test_hessians_are_counted_once_for_layers_of_the_same_input() -> None:
    with_them, without = (
        alone({"tuning.init_rounding": init, "tuning.batch_size": 1})
        for init in ("gptq", "nearest")
    )
    # q, k and v; o; gate and up, all of 64 inputs; down of 96.
    hessians = FLOAT32 * (3 * 64**2 + 96**2)
    grown = (with_them[INPUTS] - without[INPUTS]) / ROUNDED_UP
    products = FLOAT32 * 96 * 256
    assert hessians <= grown <= hessians + products + 1
    assert with_them[STARTING] > without[STARTING] + hessians


def test_tokens_grow_what_activations_take_and_nothing_else() -> None:
    few, more, most = (alone({"calibration.seqlen": n})[TUNING] for n in (256, 512, 1024))
    assert most - more == pytest.approx(2 * (more - few), rel=0.01)


def test_without_data_a_block_is_all_that_is_there() -> None:
    plan, skeleton = planned(NEAREST)
    weights = max(shape.weights for shape in shapes_of(plan, skeleton))
    peaks = device_peaks(plan, skeleton).alone
    assert set(peaks) == {STARTING, PACKING}
    # Weights as they are stored, their groups and offsets in float32, and codes.
    assert peaks[STARTING] > (4 + 4 + 1) * weights


def test_head_and_end_to_end_have_phases_where_they_are_tuned() -> None:
    assert HEAD not in alone()
    assert END_TO_END not in alone()
    assert alone({"lm_head.bits": 4})[HEAD] > 0
    one, two = (
        alone({"end_to_end.steps": 2, "end_to_end.batch_size": n})[END_TO_END] for n in (1, 2)
    )
    assert one < two < 2 * one
