"""A device whose memory is full in the middle of a block: smaller parts, then less beside them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from autoround.core.step_recordings import KeptStep
from autoround.device.protocol import Memory, Speed
from autoround.device.runtime import TorchRuntime
from autoround.errors import DeviceError
from autoround.events import BlockDone, Event, StepDone, Warned
from autoround.model.runner import BlockRunner
from autoround.model.skeleton import open_model
from autoround.pipeline import run
from autoround.preparation import Request
from autoround.resume.journal import blocks_in
from autoround.session.block_output import BlockOutput
from autoround.session.session import Placement
from autoround.tuning.step_memory import StepMemory, refuse_full_memory, split_at_marks
from autoround.types import Destination

from ...runs import content, make_session, run_pass, small
from ...tiny import make_model, token_ids

IDS = token_ids(4, 16)
PADDED = [ids[: 16 - 3 * n] for n, ids in enumerate(token_ids(4, 16))]
FULL = "Tried to allocate 2.00 GiB. Device 0 has a total capacity of 8.00 GiB"


class Card(TorchRuntime):
    """The processor, said to have memory of its own."""

    released = 0

    def __init__(self) -> None:
        super().__init__("card", torch.device("cpu"))
        self.own_memory = True

    def speeds(self) -> tuple[Speed, ...]:
        return (Speed(torch.float32, 1e12),)

    def memory(self) -> Memory:
        return Memory(8 << 30, 1 << 30)

    def release(self) -> None:
        self.released += 1


#: Decides about a call of a block whether memory is full: hidden states, whether it is a step.
Full = Callable[[Tensor, bool], bool]


@pytest.fixture
def fill(monkeypatch: pytest.MonkeyPatch) -> Callable[[Full], None]:
    """Return what makes calls of blocks run out of memory, after some of their work."""
    plain = BlockRunner.run

    def install(full: Full) -> None:
        def limited(self: BlockRunner, *args: Any, **options: Any) -> Tensor:
            out = plain(self, *args, **options)
            if full(options["hidden"], torch.is_grad_enabled()):
                raise torch.OutOfMemoryError(FULL)
            return out

        monkeypatch.setattr(BlockRunner, "run", limited)

    return install


def steps_of_more_than(most: int) -> Full:
    return lambda hidden, step: step and len(hidden) > most


def tuned(
    values: dict[str, object] | None = None,
    *,
    runtime: TorchRuntime | None = None,
    data: Any = IDS,
    resident: bool = True,
) -> tuple[list[BlockOutput], list[str], list[Event]]:
    """Tune all blocks; returns them, the warnings, and all events."""
    events: list[Event] = []
    runtime = Card() if runtime is None else runtime
    session = make_session(
        make_model("llama"), {"tuning.batch_size": 4, **(values or {})}, data=data
    )
    placement = Placement(streams_on_device=resident)
    outputs = run_pass(replace(session, runtime=runtime, sink=events.append, placement=placement))
    return outputs, [e.message for e in events if isinstance(e, Warned)], events


def same_but_for_sums(outputs: list[BlockOutput], plain: list[BlockOutput]) -> None:
    for one, other in zip(outputs, plain, strict=True):
        assert one.result.loss_after == pytest.approx(other.result.loss_after, rel=0.02)
        for name, layer in other.layers.items():
            codes: Any = one.layers[name].codes == layer.codes  # type: ignore[union-attr]
            assert codes.double().mean() > 0.98, name


def test_a_batch_goes_through_in_halves_until_it_fits(fill: Any) -> None:
    plain, none, _ = tuned()
    assert none == []
    assert [output.result.micro_batch for output in plain] == [0, 0]
    fill(steps_of_more_than(1))
    runtime = Card()
    outputs, warnings, events = tuned(runtime=runtime)
    assert len(warnings) == 2, "one for each halving, none for the second block"
    assert "4 samples of a batch at a time; it begins anew with 2" in warnings[0]
    assert "2 samples of a batch at a time; it begins anew with 1" in warnings[1]
    assert all("block model.layers.0" in warning for warning in warnings)
    assert runtime.released >= 2, "what the allocator holds is given back before the next try"
    assert [output.result.micro_batch for output in outputs] == [1, 1]
    assert not any(output.result.streams_on_host for output in outputs)
    assert all(output.result.peak_reserved_bytes == 0 for output in outputs), "nothing is known"
    same_but_for_sums(outputs, plain)
    steps = [event.step for event in events if isinstance(event, StepDone) and event.block == 0]
    assert steps == [1, 2, 3, 4], "it broke off in its first step, and began anew"


def test_a_block_begins_anew_with_the_same_seed(fill: Any) -> None:
    plain, _, _ = tuned({"tuning.low_memory": True})
    count = iter(range(1000))
    # In the third step: what the first two have moved is forgotten.
    fill(lambda hidden, step: step and len(hidden) == 4 and next(count) == 2)
    outputs, warnings, events = tuned()
    assert len(warnings) == 1
    steps = [event.step for event in events if isinstance(event, StepDone) and event.block == 0]
    assert steps == [1, 2, 1, 2, 3, 4]
    same_but_for_sums(outputs, plain)


def test_after_one_sample_the_activations_go_to_the_host(fill: Any) -> None:
    count = iter(range(1000))
    fill(lambda hidden, step: step and (len(hidden) > 1 or next(count) == 0))
    outputs, warnings, _ = tuned()
    assert len(warnings) == 3
    assert "activations go to the host's memory" in warnings[2]
    assert [output.result.streams_on_host for output in outputs] == [True, True]
    low, _, _ = tuned({"tuning.low_memory": True})
    same_but_for_sums(outputs, low)


@pytest.mark.parametrize("low", [False, True])
def test_what_does_not_fit_at_all_is_told_with_the_figures_and_the_keys(
    low: bool, fill: Any
) -> None:
    fill(lambda hidden, step: step)
    with pytest.raises(DeviceError) as error:
        tuned({"tuning.low_memory": low, "tuning.init_rounding": "gptq"})
    text = str(error.value)
    assert text.startswith("block model.layers.0: ")
    assert "Tried to allocate 2.00 GiB" in text
    assert "1.1 of 8.6 GB are free" in text
    assert "calibration.seqlen" in text
    assert "tuning.init_rounding=nearest" in text
    assert "tuning.batch_size" not in text, "one sample at a time is tried already"


def test_other_errors_and_those_of_the_host_are_left_alone(fill: Any) -> None:
    fill(lambda hidden, step: step)
    with pytest.raises(torch.OutOfMemoryError):
        tuned(runtime=TorchRuntime("cpu", torch.device("cpu")), resident=False)

    def broken() -> None:
        raise RuntimeError("a shape")

    memory = StepMemory(make_session(make_model("llama"), data=IDS), give_up=lambda on_host: None)
    with pytest.raises(RuntimeError, match="a shape"):
        memory.run(broken, where="here", batch=8)
    assert memory.micro_batch == 0


def test_full_memory_elsewhere_is_told_in_words() -> None:
    with pytest.raises(DeviceError, match=r"memory of cpu .*2\.00 GiB.*end_to_end\.batch_size"):
        refuse_full_memory(torch.OutOfMemoryError(FULL), Card())
    refuse_full_memory(RuntimeError("a shape"), Card())


@pytest.mark.parametrize("data", [IDS, PADDED])
@pytest.mark.parametrize("gptq", ["gptq", "nearest"])
def test_passes_go_on_where_they_broke_off(data: Any, gptq: str, fill: Any) -> None:
    """Statistics of what came before the failure, and in part of the failing batch, count once."""
    values: dict[str, object] = {"tuning.init_rounding": gptq, "tuning.batch_size": 3}
    plain, _, _ = tuned(values, data=data)
    fill(lambda hidden, step: len(hidden) > 1)
    outputs, warnings, _ = tuned(values, data=data)
    assert len(warnings) == 1
    assert [output.result.micro_batch for output in outputs] == [1, 1]
    same_but_for_sums(outputs, plain)


def test_parts_end_where_others_broke_off() -> None:
    ends = lambda *given: [(part.start, part.stop) for part in split_at_marks(*given)]  # noqa: E731
    assert ends([0], 5, 2) == [(0, 2), (2, 4), (4, 5)]
    assert ends([0, 5, 3], 7, 2) == [(0, 2), (2, 3), (3, 5), (5, 7)]
    assert ends([4], 4, 2) == []


def test_recordings_are_given_up_before_a_smaller_part(fill: Any) -> None:
    kept: list[KeptStep] = []

    class Recording(Card):
        def capture(self, step: Any, examples: Any) -> Any:
            kept.append(step)
            return lambda tensors: step(tensors)

    count = iter(range(1000))
    fill(lambda hidden, step: step and len(hidden) == 4 and next(count) >= 6)
    outputs, warnings, _ = tuned(runtime=Recording())
    assert len(kept) == 1, "parts of a batch are not recorded"
    assert len(warnings) == 1
    assert outputs[-1].result.micro_batch == 2


class Stop(BaseException):
    """Ends a run from within."""


def written(model: Path, output: Path, *, blocks: int = 0, resume: bool = False) -> list[str]:
    """Quantize a model on a card; stopped after some blocks. Returns the warnings."""
    warnings: list[str] = []

    def sink(event: Event) -> None:
        if isinstance(event, Warned):
            warnings.append(event.message)
        if isinstance(event, BlockDone) and blocks and blocks_in(output) >= blocks:
            raise Stop

    request = Request(
        open_model(model), small({"tuning.batch_size": 4}), Card(), "tiny", None, data=IDS
    )
    run(request, Destination(output, resume=resume), sink=sink)
    return [text for text in warnings if "memory of" in text]


def test_a_resumed_run_takes_what_was_found(
    checkpoint: Callable[[str], Path], tmp_path: Path, fill: Any
) -> None:
    model = checkpoint("llama")
    fill(steps_of_more_than(2))
    assert len(written(model, tmp_path / "whole")) == 1
    with pytest.raises(Stop):
        written(model, tmp_path / "parts", blocks=1)
    assert written(model, tmp_path / "parts", resume=True) == [], "it does not run into it again"
    assert content(tmp_path / "parts") == content(tmp_path / "whole")


def test_finished_blocks_stay_where_the_next_one_does_not_fit(
    checkpoint: Callable[[str], Path], tmp_path: Path, fill: Any
) -> None:
    model, steps = checkpoint("llama"), iter(range(1000))
    fill(lambda hidden, step: step and next(steps) >= 4)
    with pytest.raises(DeviceError, match="block model.layers.1: .* kept for --resume"):
        written(model, tmp_path / "out")
    assert blocks_in(tmp_path / "out") == 1
    fill(lambda hidden, step: False)
    assert written(model, tmp_path / "out", resume=True) == []


def test_the_head_is_tuned_on_fewer_positions_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from autoround.tuning import lm_head

    plain = lm_head._difference

    def limited(*args: Any) -> Tensor:
        if torch.is_grad_enabled() and len(args[3]) > 20:
            raise torch.OutOfMemoryError(FULL)
        return plain(*args)

    values: dict[str, object] = {"lm_head.bits": 8, "lm_head.group_size": 32}
    whole, _, _ = tuned(values)
    monkeypatch.setattr(lm_head, "_difference", limited)
    outputs, warnings, _ = tuned(values)
    assert "layer lm_head" in warnings[0]
    assert "positions of a batch at a time" in warnings[0]
    same_but_for_sums(outputs, whole)
