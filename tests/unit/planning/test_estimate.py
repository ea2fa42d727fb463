from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from autoround.checkpoints.inspect import inspect_folder
from autoround.device.protocol import Memory
from autoround.device.registry import open_device
from autoround.model.skeleton import adopt_model, open_model
from autoround.pipeline import run
from autoround.planning.estimate import disk_bytes, layer_bytes, make_estimate
from autoround.planning.plan import make_plan
from autoround.planning.work import plan_work
from autoround.preparation import Request
from autoround.recipe.schema import Recipe
from autoround.types import Estimate, LayerPlan, RunResult, Scheme

from ...runs import NEAREST, small, tensors_of
from ...tiny import KINDS, make_model

BASE: dict[str, object] = {"calibration.nsamples": 128, "calibration.seqlen": 2048}


def estimate(values: dict[str, object] | None = None, *, kind: str = "llama") -> Estimate:
    recipe, skeleton, runtime = small(values), adopt_model(make_model(kind)), open_device("cpu")
    plan = make_plan(recipe, skeleton, runtime=runtime, calibration="", model="")
    return make_estimate(plan, skeleton, runtime=runtime)


def write(
    folder: Path, output: Path, values: dict[str, object]
) -> tuple[RunResult, dict[str, Tensor], int]:
    skeleton = open_model(folder)
    recipe = small({**NEAREST, **values})
    request = Request(skeleton, recipe, open_device("cpu"), "tiny")
    result = run(request, output, sink=lambda event: None)
    return result, tensors_of(output), disk_bytes(result.plan, skeleton)


def size_of(tensors: dict[str, Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors.values())


@pytest.mark.parametrize("sym", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_disk_bytes_are_those_of_the_tensors_written(
    bits: int, sym: bool, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    values = {"scheme.bits": bits, "scheme.sym": sym, "output.dtype": "auto"}
    _, tensors, expected = write(checkpoint("llama"), tmp_path / "out", values)
    assert expected == size_of(tensors)


@pytest.mark.parametrize("kind", ["gpt2", "qwen2_moe", "opt", "gemma2"])
@pytest.mark.parametrize("size", [0, -1, 16, 64])
def test_disk_bytes_with_other_groups_and_kinds(
    kind: str, size: int, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    values: dict[str, object] = {"scheme.group_size": size, "output.dtype": "float16"}
    _, tensors, expected = write(checkpoint(kind), tmp_path / "out", values)
    assert expected == size_of(tensors)


def test_disk_bytes_of_shards_and_tensors_outside_the_class(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    source = tmp_path / "model"
    source.mkdir()
    tensors = load_file(checkpoint("llama") / "model.safetensors")
    tensors["mtp.weight"] = torch.ones(7, dtype=torch.float32)
    save_file(tensors, source / "model.safetensors")
    (source / "config.json").write_bytes((checkpoint("llama") / "config.json").read_bytes())
    out = tmp_path / "out"
    values: dict[str, object] = {"output.max_shard_size": 20000, "output.dtype": "bfloat16"}
    _, written, expected = write(source, out, values)
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == expected == size_of(written)
    assert torch.equal(written["mtp.weight"], torch.ones(7))
    assert len(set(index["weight_map"].values())) > 2


def test_source_bytes_are_those_of_the_model() -> None:
    model = make_model("llama")
    assert estimate().source_bytes == sum(t.numel() * 4 for t in model.state_dict().values())


@pytest.mark.parametrize(
    ("scheme", "bits"),
    [
        # Zero points are stored, symmetric grids' too.
        (Scheme(4, 32, True), 4 + 20 / 32),
        (Scheme(4, 32, False), 4 + 20 / 32),
        (Scheme(2, 16, False), 2 + 18 / 16),
        (Scheme(3, 32, True), 3 + 19 / 32),
        (Scheme(8, 32, True), 8 + 24 / 32),
    ],
)
def test_bits_per_weight_are_those_that_inspect_counts(
    scheme: Scheme, bits: float, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    values: dict[str, object] = {
        "scheme.bits": scheme.bits,
        "scheme.group_size": scheme.group_size,
        "scheme.sym": scheme.sym,
    }
    assert estimate(values).bits_per_weight == pytest.approx(bits)
    result, _, _ = write(checkpoint("llama"), tmp_path / "out", values)
    assert result.bits_per_weight == pytest.approx(bits)
    inspected = inspect_folder(tmp_path / "out").quantized
    assert [part.bits_per_weight for part in inspected] == [pytest.approx(bits)]


def test_bits_per_weight_of_long_groups() -> None:
    by_channel = estimate({"scheme.group_size": -1}).bits_per_weight
    by_tensor = estimate({"scheme.group_size": 0}).bits_per_weight
    # One scale a tensor is written once a channel.
    assert 4 < by_tensor == by_channel < 4.3


def test_a_layer_by_hand() -> None:
    layer = LayerPlan("x", (64, 96), Scheme(4, 32, True))
    # Codes, zero points and float16 scales, of 3 groups a row.
    assert layer_bytes(layer, "auto_round") == 64 * 96 // 2 + 64 * 3 // 2 + 64 * 3 * 2
    tail = LayerPlan("x", (64, 96), Scheme(4, 64, True))
    assert layer_bytes(tail, "auto_round") == 64 * 96 // 2 + 64 * 2 // 2 + 64 * 2 * 2
    one = LayerPlan("x", (64, 96), Scheme(8, 0, False))
    assert layer_bytes(one, "auto_round") == 64 * 96 + 64 + 64 * 2


def test_memory_grows_with_the_samples_and_not_at_all_without_data() -> None:
    few, many = (estimate({"calibration.nsamples": n}).memory_bytes for n in (10_000, 20_000))
    # Two streams of float32 activations, 16 tokens of 64 values each.
    assert many - few == 10_000 * 2 * 16 * 64 * 4
    plain = [estimate({**NEAREST, "calibration.nsamples": n}).memory_bytes for n in (1, 20_000)]
    assert plain[0] == plain[1] < few


def test_graphs_are_held_where_a_quarter_of_the_memory_is_enough() -> None:
    recipe, skeleton = small({"end_to_end.steps": 2}), adopt_model(make_model("llama"))
    runtime = open_device("cpu")

    def found(budget: int | None, recipe: Recipe = recipe) -> Estimate:
        plan = make_plan(recipe, skeleton, runtime=runtime, calibration="", model="")
        return make_estimate(plan, skeleton, runtime=runtime, budget=budget)

    much, none = found(10 << 30), found(None)
    assert much.graphs_held
    assert not none.graphs_held
    plan = make_plan(recipe, skeleton, runtime=runtime, calibration="", model="")
    graphs = much.memory_bytes - none.memory_bytes
    # At least the unpacked weights and what enters each product.
    assert graphs > sum(math.prod(x.shape) for b in plan.blocks for x in b.layers) * 4
    little = found(none.memory_bytes + graphs - 1)
    assert not little.graphs_held
    assert little.memory_bytes == none.memory_bytes
    assert not found(10 << 30, small({"end_to_end.steps": 0})).graphs_held
    sparing = small({"end_to_end.steps": 2, "tuning.low_memory": True})
    assert not found(10 << 30, sparing).graphs_held


def test_time_grows_with_the_steps() -> None:
    short, long = (estimate({**BASE, "tuning.iters": n}) for n in (100, 1000))
    assert 0 < short.seconds_low < short.seconds_high < math.inf
    assert long.seconds_low > 3 * short.seconds_low


def test_a_device_of_unknown_speed_has_no_upper_bound() -> None:
    recipe, skeleton = small(), adopt_model(make_model("llama"))
    runtime = open_device("null")
    plan = make_plan(recipe, skeleton, runtime=runtime, calibration="", model="")
    found = make_estimate(plan, skeleton, runtime=runtime)
    assert (found.seconds_low, found.seconds_high) == (0, math.inf)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_an_estimate_with_sense(kind: str) -> None:
    found = estimate({"output.dtype": "bfloat16"}, kind=kind)
    assert 0 < found.disk_bytes < found.source_bytes < found.memory_bytes


def test_fresh_samples_are_run_through_the_blocks_once() -> None:
    skeleton, runtime = adopt_model(make_model("llama")), open_device("cpu")
    plans = [
        make_plan(
            small({"end_to_end.steps": 2, "end_to_end.nsamples": n}),
            skeleton,
            runtime=runtime,
            calibration="",
            model="",
        )
        for n in (0, 12)
    ]
    plain, fresh = map(plan_work, plans)
    weights = sum(math.prod(x.shape) for b in plans[0].blocks for x in b.layers)
    assert fresh == plain._replace(fresh=weights * 12 * 16)
    low, high = (make_estimate(p, skeleton, runtime=runtime, budget=1 << 40) for p in plans)
    stream = 12 * 16 * 64 * 4
    assert high.stream_bytes - low.stream_bytes == stream
    assert high.memory_bytes - low.memory_bytes == stream
    assert high.seconds_low > low.seconds_low


def test_streams_leave_a_device_where_the_fresh_one_does_not_fit_the_host() -> None:
    skeleton = adopt_model(make_model("llama"))
    recipe = small({"end_to_end.steps": 2, "end_to_end.nsamples": 12})
    runtime = open_device("cpu")
    plan = make_plan(recipe, skeleton, runtime=runtime, calibration="", model="")

    def found(budget: int) -> Estimate:
        return make_estimate(plan, skeleton, runtime=OwnMemory(runtime), budget=budget)

    much, little = found(1 << 40), found(1)
    assert much.streams_on_device
    assert not much.streams_on_disk
    assert little.streams_on_disk
    assert not little.streams_on_device


class OwnMemory:
    """A runtime as it is, but for memory of its own, of which there is plenty."""

    own_memory = True

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime

    def memory(self) -> Memory:
        return Memory(1 << 40, 1 << 40)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runtime, name)
