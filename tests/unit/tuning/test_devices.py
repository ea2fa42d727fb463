"""What a device of its own memory changes in a plan, and reading ahead."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from autoround.device.protocol import Memory, Note, Speed, Upload
from autoround.device.runtime import TorchRuntime
from autoround.errors import ModelError
from autoround.events import Event, Warned
from autoround.model.runner import BlockRunner
from autoround.model.skeleton import adopt_model
from autoround.preparation import Request, open_session, prepare
from autoround.report.plan import plan_lines
from autoround.session.prefetch import BlockPrefetcher

from ...runs import make_session, quantized, run_pass, same, small
from ...tiny import make_model, token_ids

IDS = token_ids(4, 16)


class Apart(TorchRuntime):
    """The processor, said to have memory of its own."""

    def __init__(self, free: int = 1 << 40) -> None:
        super().__init__("apart", torch.device("cpu"))
        self.own_memory = True
        self.free = free
        self.uploads: list[list[str]] = []

    def speeds(self) -> tuple[Speed, ...]:
        return (Speed(torch.float32, 1e12),)

    def memory(self) -> Memory:
        return Memory(1 << 40, self.free)

    def notes(self) -> tuple[Note, ...]:
        return Note("a fan"), Note("plain torch: no compiler", slower=True)

    def upload(self, tensors: Mapping[str, Tensor]) -> Upload:
        self.uploads.append(list(tensors))
        return super().upload(tensors)


def prepared(runtime: TorchRuntime, values: dict[str, object] | None = None) -> Any:
    events: list[Event] = []
    skeleton = adopt_model(make_model("llama"))
    request = Request(skeleton, small(values), runtime, "tiny", None, IDS)
    ready = prepare(request, sink=events.append)
    session = open_session(ready, sink=events.append)
    return session, ready.estimate, [event.message for event in events if isinstance(event, Warned)]


def test_streams_stay_on_a_device_that_they_fit() -> None:
    job, estimate, _ = prepared(Apart())
    assert estimate.streams_on_device
    assert job.placement.streams_on_device
    assert not estimate.streams_on_disk
    bytes_of_streams = 2 * 4 * 16 * 64 * 4
    assert estimate.stream_bytes == bytes_of_streams
    assert any("of activations there, too" in line for line in plan_lines(job.plan, estimate))
    _, sparing, _ = prepared(Apart(), {"tuning.low_memory": True})
    assert not sparing.streams_on_device
    assert sparing.device_bytes < estimate.device_bytes - bytes_of_streams
    assert sparing.memory_bytes == estimate.memory_bytes + bytes_of_streams


def test_too_little_memory_is_told_with_what_to_do() -> None:
    job, estimate, warnings = prepared(Apart(free=1000))
    assert not job.placement.streams_on_device
    assert not estimate.streams_on_device
    assert any("or take --low-memory, which needs about" in line for line in warnings)
    _, _, warnings = prepared(Apart(free=1000), {"tuning.low_memory": True})
    assert not any("--low-memory" in line for line in warnings)


def test_what_makes_a_device_slower_is_told_before_the_run() -> None:
    _, _, warnings = prepared(Apart())
    assert "apart is slower than it could be: plain torch: no compiler" in warnings
    assert not any("fan" in line for line in warnings)
    _, _, warnings = prepared(Apart(), {"tuning.iters": 0})
    assert not any("slower" in line for line in warnings)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_low_memory_gives_the_same(accumulate: int) -> None:
    model = make_model("llama")
    values = {"tuning.gradient_accumulate_steps": accumulate, "tuning.iters": 8}
    each = []
    for low in (False, True):
        job = make_session(model, {**values, "tuning.low_memory": low}, data=IDS)
        each.append(run_pass(job))
    for plain, sparing in zip(*each, strict=True):
        assert sparing.result.loss_after == pytest.approx(plain.result.loss_after, rel=0.02)
        for name, layer in plain.layers.items():
            other: Any = sparing.layers[name]
            alike = (layer.codes == other.codes).double().mean()  # type: ignore[union-attr]
            assert alike > 0.98, name


def test_the_next_block_is_read_while_one_is_tuned() -> None:
    model = make_model("llama")
    plain = quantized(make_session(model, data=IDS))
    job = make_session(model, {"tuning.iters": 40}, data=IDS)
    runtime = Apart()
    reads: list[str] = []
    read = job.skeleton.read

    def noted(names: Iterable[str]) -> dict[str, Tensor]:
        reads.append(threading.current_thread().name)
        return read(names)

    object.__setattr__(job.skeleton, "read", noted)
    short = dataclasses.replace(job, runtime=runtime, plan=make_session(model, data=IDS).plan)
    assert same(quantized(short), plain)
    elsewhere = [name for name in reads if name != threading.main_thread().name]
    assert len(elsewhere) == 1, "the second block, and nothing after the last one"
    weights = [names for names in runtime.uploads if "rates" not in names]
    assert len(weights) == 2, "each block once, ahead of need or at it"


def test_what_is_read_is_brought_to_the_device() -> None:
    runtime = Apart()
    job = dataclasses.replace(make_session(make_model("llama"), data=IDS), runtime=runtime)
    first, second = job.plan.blocks
    ahead = BlockPrefetcher(job)
    ahead.prefetch(first)
    assert ahead._reading is not None
    ahead._reading[1].result()
    for _ in range(3):
        ahead.prefetch(first)
    assert len(runtime.uploads) == 1
    taken = ahead.next(second)
    assert set(taken.by_param) == set(runtime.uploads[0])
    assert "self_attn.q_proj.weight" in taken.by_param
    assert {f"{second.name}.{name}" for name in taken.by_param} == set(taken.host)
    ahead.prefetch(second)
    assert ahead._reading is None, "there is no third block"


def test_on_a_cpu_or_in_little_memory_nothing_is_read_ahead() -> None:
    for runtime, values in (
        (TorchRuntime("cpu", torch.device("cpu")), {}),
        (Apart(), {"tuning.low_memory": True}),
    ):
        job = dataclasses.replace(
            make_session(make_model("llama"), values, data=IDS), runtime=runtime
        )
        ahead = BlockPrefetcher(job)
        ahead.prefetch(job.plan.blocks[0])
        assert ahead._reading is None
        assert set(ahead.next(job.plan.blocks[1]).host) == set(
            job.skeleton.names_under(job.plan.blocks[1].name)
        )


def test_what_fails_ahead_is_told_where_it_is_needed(tmp_path: Path) -> None:
    job = make_session(make_model("llama"), data=IDS)
    runtime = Apart()
    job = dataclasses.replace(job, runtime=runtime)
    ahead = BlockPrefetcher(job)

    def refuse(names: Iterable[str]) -> dict[str, Tensor]:
        raise ModelError("a tensor holds NaN")

    object.__setattr__(job.skeleton, "read", refuse)
    ahead.prefetch(job.plan.blocks[0])
    assert ahead._reading is not None
    ahead._reading[1].exception()
    ahead.prefetch(job.plan.blocks[0])
    assert runtime.uploads == []
    with pytest.raises(ModelError, match="holds NaN"):
        ahead.next(job.plan.blocks[1])


def test_low_memory_holds_the_activations_of_one_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that a block keeps for its backward, weights left out: they are the same for all."""
    run = BlockRunner.run

    def held(low: bool) -> int:
        most = 0

        def counted(self: BlockRunner, *args: Any, **options: Any) -> Tensor:
            nonlocal most
            weights = {tensor.data_ptr() for tensor in args[1].values()}
            seen: dict[int, int] = {}

            def keep(tensor: Tensor) -> Tensor:
                if tensor.data_ptr() not in weights:
                    seen[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                out = run(self, *args, **options)
            most = max(most, sum(seen.values()))
            return out

        values = {"tuning.low_memory": low, "tuning.batch_size": 4, "tuning.iters": 2}
        with monkeypatch.context() as patch:
            patch.setattr(BlockRunner, "run", counted)
            quantized(make_session(make_model("llama"), values, data=IDS))
        return most

    whole, sparing = held(False), held(True)
    assert 0 < sparing < 0.3 * whole
