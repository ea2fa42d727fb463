from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from autoround.device.protocol import Runtime
from autoround.device.registry import open_device
from autoround.errors import OutputError, UsageError
from autoround.events import Event, Planned, StageStarted, Warned
from autoround.model.skeleton import open_model
from autoround.pipeline import run
from autoround.preparation import Request
from autoround.resume.journal import blocks_in, journal_of
from autoround.session.block_output import BlockOutput
from autoround.tuning import end_to_end_state
from autoround.tuning.block import BlockTuner
from autoround.types import BlockPlan, Destination, RunResult
from autoround_backends._processor import Processor
from autoround_backends.cpu import CpuRuntime

from ...faults import count, full_disk, killed
from ...runs import NEAREST, content, small, tensors_of
from ...tiny import make_byte_tokenizer, token_ids

IDS = token_ids(9, 16)
BASE: dict[str, object] = {
    **{"tuning.iters": 1, "tuning.num_validations": 1, "tuning.validation_samples": 2},
}
#: Ways to make outputs that differ in what is kept: both streams or one, shards, two passes.
KINDS: dict[str, dict[str, object]] = {
    "plain": {},
    "one stream": {"tuning.quantized_inputs": False, "output.max_shard_size": 20_000},
    "two passes": {"output.format": "auto_round,auto_gptq,gguf:q2_k_s", "tuning.iters": 0},
    "head": {"lm_head.bits": 8, "end_to_end.steps": 2, "end_to_end.batch_size": 2},
    "distilled": {"end_to_end.steps": 3, "end_to_end.batch_size": 2},
    # Samples that no block is tuned on.
    "fresh": {"end_to_end.steps": 3, "end_to_end.batch_size": 2, "end_to_end.nsamples": 5},
}


class Stop(BaseException):
    """Ends a run from within."""


def quantize(
    model: Path,
    output: Path,
    values: dict[str, object] | None = None,
    *,
    data: Any = IDS,
    sink: Callable[[Event], None] = lambda event: None,
    runtime: Runtime | None = None,
    **means: Any,
) -> RunResult:
    recipe = small({**BASE, **(values or {})})
    tokenizer = make_byte_tokenizer() if "gguf" in recipe.output.format else None
    runtime = runtime or open_device("cpu")
    request = Request(open_model(model), recipe, runtime, "tiny", tokenizer, data=data)
    return run(request, Destination(output, **means), sink=sink)


def stop_after(blocks: int, output: Path) -> Callable[[Event], None]:
    """Return a sink that ends a run when so many blocks are done."""

    def sink(event: Event) -> None:
        if type(event).__name__ == "BlockDone" and blocks_in(output) >= blocks:
            raise Stop

    return sink


def interrupted(model: Path, output: Path, *args: Any, blocks: int = 1, **others: Any) -> None:
    with pytest.raises(Stop):
        quantize(model, output, *args, sink=stop_after(blocks, output), **others)
    assert blocks_in(output) == blocks
    assert not output.exists()


def resumed(model: Path, output: Path, *args: Any, **others: Any) -> dict[str, bytes]:
    quantize(model, output, *args, resume=True, **others)
    assert sorted(p.name for p in output.parent.iterdir()) == [output.name]
    return content(output)


#: Quantizes the model without a break, and returns the content of its output.
Whole = Callable[..., dict[str, bytes]]


@pytest.fixture
def model(checkpoint: Callable[[str], Path]) -> Path:
    return checkpoint("llama")


@pytest.fixture
def every_state_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the state of end-to-end tuning after every step."""
    monkeypatch.setattr(end_to_end_state, "INTERVAL", 0.0)


@pytest.fixture
def whole(model: Path, tmp_path: Path) -> Whole:
    def make(values: dict[str, object], **means: Any) -> dict[str, bytes]:
        quantize(model, tmp_path / "whole" / "out", values, **means)
        return content(tmp_path / "whole" / "out")

    return make


@pytest.mark.usefixtures("every_state_kept")
@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_random_changes_of_the_disk(
    kind: str, model: Path, tmp_path: Path, whole: Whole
) -> None:
    kill_and_compare(kind, model, tmp_path, whole, points=2)


@pytest.mark.usefixtures("every_state_kept")
@pytest.mark.slow
@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_twenty_changes_of_the_disk(
    kind: str,
    lost: bool,
    mapped: bool,
    model: Path,
    tmp_path: Path,
    whole: Whole,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if mapped:
        on_disk(monkeypatch)
    kill_and_compare(kind, model, tmp_path, whole, points=20, lost=lost)


def kill_and_compare(
    kind: str, model: Path, folder: Path, whole: Whole, *, points: int, lost: bool = False
) -> None:
    """Kill runs, resume each as often as it takes, and compare.

    points: how many random instants; 0 for all of them, which takes minutes a kind.
    """
    values = KINDS[kind]
    expected = whole(values)
    calls = len(count(lambda: quantize(model, folder / "counted" / "out", values)))
    chosen = range(1, calls + 1)
    rng = random.Random(kind)
    for at in rng.sample(chosen, points) if points else chosen:
        place = folder / f"killed-{at}"
        place.mkdir()
        work = partial(quantize, model, place / "out", values, resume=True)
        left = place if lost else None
        if not killed(work, at=at, lost=left):
            # Folders above the output were made by the run that was counted.
            assert at > calls - 3
            assert content(place / "out") == expected
            continue
        # And once more, while it goes on.
        killed(work, at=rng.randrange(1, calls), lost=left)
        assert resumed(model, place / "out", values) == expected, f"killed before call {at}"
        shutil.rmtree(place)


@pytest.mark.usefixtures("every_state_kept")
@pytest.mark.parametrize("kind", ["plain", "distilled"])
def test_a_full_disk_is_an_error_that_can_be_resumed(
    kind: str, model: Path, tmp_path: Path, whole: Whole
) -> None:
    fill_and_compare(kind, model, tmp_path, whole, step=17)


@pytest.mark.usefixtures("every_state_kept")
@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_disk_full_at_every_fifth_write(
    kind: str, model: Path, tmp_path: Path, whole: Whole
) -> None:
    fill_and_compare(kind, model, tmp_path, whole, step=5)


def fill_and_compare(kind: str, model: Path, folder: Path, whole: Whole, *, step: int) -> None:
    values = KINDS[kind]
    expected = whole(values)
    calls = count(lambda: quantize(model, folder / "counted" / "out", values))
    last = max(number for number, name in enumerate(calls, start=1) if name != "rmtree")
    for at in range(1, last, step):
        place = folder / f"full-{at}"
        place.mkdir()
        try:
            with full_disk(at=at):
                quantize(model, place / "out", values)
        except OutputError as error:
            assert "No space left" in str(error)  # noqa: PT017 (the last few calls only delete)
        assert not (place / "out.partial").exists()
        if not (place / "out").exists():
            quantize(model, place / "out", values, resume=True)
        assert content(place / "out") == expected, f"full from call {at}"


def on_disk(patch: pytest.MonkeyPatch) -> None:
    """Let no stream and no codes fit the memory."""
    patch.setattr("autoround.planning.estimate.offload_to_disk", lambda needs, budget: (True, True))


@pytest.mark.parametrize("kind", KINDS)
def test_streams_and_codes_on_the_disk_change_nothing(
    kind: str,
    model: Path,
    tmp_path: Path,
    whole: Whole,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = whole(KINDS[kind])
    on_disk(monkeypatch)
    out = tmp_path / "disk" / "out"
    work = tmp_path / "work"
    interrupted(model, out, KINDS[kind], work_dir=work)
    (streams,) = work.iterdir()
    assert any(p.stat().st_size for p in streams.rglob("*"))
    # Where streams live may change between the two.
    monkeypatch.undo()
    assert resumed(model, out, KINDS[kind]) == expected
    assert list(work.iterdir()) == []


def test_what_is_done_is_not_done_again(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    interrupted(model, out)
    done: list[int] = []
    original = BlockTuner.tune

    def noted(tuner: BlockTuner, block: BlockPlan) -> BlockOutput:
        done.append(block.index)
        return original(tuner, block)

    monkeypatch.setattr(BlockTuner, "tune", noted)
    events: list[Event] = []
    result = quantize(model, out, resume=True, sink=events.append)
    assert done == [1]
    assert StageStarted("resume", "1 of 2 blocks are done") in events
    assert [block.index for block in result.blocks] == [0, 1]


def test_what_was_left_is_neither_thrown_away_nor_mixed_up(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    interrupted(model, out)
    with pytest.raises(OutputError, match=r"1 finished block of .*--resume.*--restart"):
        quantize(model, out)
    with pytest.raises(UsageError, match="one of them"):
        quantize(model, out, resume=True, restart=True)
    assert blocks_in(out) == 1
    quantize(model, out, {"tuning.iters": 2}, restart=True)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert json.loads((out / "plan.json").read_text())["recipe"]["tuning"]["iters"] == 2


def test_another_run_does_not_go_on(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    interrupted(model, out)
    changes: list[tuple[dict[str, object], Any, str]] = [
        ({"tuning.iters": 3}, IDS, r"recipe.tuning.iters: 1 then, 3 now"),
        ({"seed": 7, "ignore": ["o_proj"]}, IDS, r"seed: 42 then, 7 now"),
        ({"output.format": "auto_gptq"}, IDS, "output.format: auto_round then, auto_gptq now"),
        ({"tuning.compute_dtype": "bfloat16"}, IDS, "compute dtype: float32 then, bfloat16 now"),
        ({}, token_ids(4, 16, seed=5), "calibration tokens: "),
    ]
    for values, data, message in changes:
        with pytest.raises(OutputError, match=message) as caught:
            quantize(model, out, values, data=data, resume=True)
        assert "\n  plan: " not in str(caught.value)
    assert blocks_in(out) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.norm.weight", "tensors outside the blocks: "),
        ("model.layers.0.mlp.up_proj.weight", "the weights of model.layers.0 are not those"),
    ],
)
def test_a_changed_model_does_not_go_on(
    name: str, message: str, model: Path, tmp_path: Path
) -> None:
    changed = tmp_path / "model"
    shutil.copytree(model, changed)
    interrupted(changed, tmp_path / "out")
    tensors = tensors_of(changed)
    tensors[name].view(-1)[5] += 1
    save_file(tensors, changed / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(OutputError, match=message):
        quantize(changed, tmp_path / "out", resume=True)


def test_a_changed_version_does_not_go_on_and_another_machine_is_told(
    model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    interrupted(model, out)
    path = journal_of(out) / "run.json"
    about = json.loads(path.read_text())
    about["fingerprint"]["torch"] = "1.0"
    path.write_text(json.dumps(about))
    with pytest.raises(OutputError, match=r"torch: 1\.0 then, "):
        quantize(model, out, resume=True)
    about["fingerprint"]["torch"] = version("torch")
    about["machine"]["processor"] = "abacus"
    path.write_text(json.dumps(about))
    events: list[Event] = []
    quantize(model, out, resume=True, sink=events.append)
    (warning,) = (event for event in events if isinstance(event, Warned))
    assert "last bits may differ" in warning.message
    assert "processor: abacus then, " in warning.message


def test_dtype_and_threads_of_the_interrupted_run_are_kept(model: Path, tmp_path: Path) -> None:
    values: dict[str, object] = {"tuning.compute_dtype": "auto"}
    out = tmp_path / "out"
    torch.set_num_threads(2)
    interrupted(model, out, values, runtime=CpuRuntime(Processor(2, bfloat16=False)))
    others = CpuRuntime(Processor(1, bfloat16=True))
    result = quantize(model, out, values, resume=True, runtime=others)
    assert (result.plan.compute_dtype, result.plan.tuning.threads) == ("float32", 2)
    whole = quantize(model, tmp_path / "whole", values, runtime=others)
    assert (whole.plan.compute_dtype, whole.plan.tuning.threads) == ("bfloat16", 1)


def test_whether_blocks_are_compiled_follows_the_dtype_that_is_kept(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values: dict[str, object] = {"tuning.compute_dtype": "auto"}
    out = tmp_path / "out"
    monkeypatch.setattr("autoround_backends.cpu.COMPILES_FROM", 0.0)
    monkeypatch.setattr("autoround_backends.cpu.why_not_compiled", lambda: "")
    interrupted(model, out, values, runtime=CpuRuntime(Processor(1, bfloat16=False)))
    others = CpuRuntime(Processor(1, bfloat16=True))
    result = quantize(model, out, values, resume=True, runtime=others)
    assert (result.plan.compute_dtype, result.plan.compiled) == ("float32", False)


@pytest.mark.parametrize("name", ["pass-1/00000.safetensors", "streams/pass-1/full-1", "run.json"])
def test_damage_is_told(name: str, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    interrupted(model, out)
    path = journal_of(out) / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data if name != "run.json" else data[: len(data) // 2])
    with pytest.raises(OutputError, match=f"{path}.*--restart"):
        quantize(model, out, resume=True)


def test_two_runs_do_not_share_a_journal(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    messages: list[str] = []

    def sink(event: Event) -> None:
        if type(event).__name__ == "BlockDone" and not messages:
            with pytest.raises(OutputError, match="another run is at work") as caught:
                quantize(model, out, resume=True)
            messages.append(str(caught.value))
            with pytest.raises(OutputError, match="another run is at work"):
                quantize(model, out, restart=True)
            # Nor does it pass for what an interrupted run left.
            with pytest.raises(OutputError, match="another run is at work"):
                quantize(model, out)

    quantize(model, out, sink=sink)
    assert messages


def test_a_journal_that_cannot_be_deleted_is_told_and_the_output_is_there(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> None:
        raise OSError("read-only")

    events: list[Event] = []
    monkeypatch.setattr("autoround.resume.journal.remove_file", fail)
    quantize(model, tmp_path / "out", sink=events.append)
    (warning,) = (event for event in events if isinstance(event, Warned))
    assert "the output is complete" in warning.message
    assert "out.journal cannot be deleted: read-only" in warning.message
    monkeypatch.undo()
    quantize(model, tmp_path / "out", resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_resume_without_anything_to_resume(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = quantize(model, out, resume=True)
    before = content(out)
    events: list[Event] = []
    again = quantize(model, out, resume=True, sink=events.append)
    assert content(out) == before
    assert events[-1] == StageStarted("resume", f"{out} is complete")
    assert replace(again, seconds=0, tuning_seconds=0, peak_bytes=0) == replace(
        first, seconds=0, tuning_seconds=0, peak_bytes=0
    )
    with pytest.raises(OutputError, match="not empty"):
        quantize(model, out, {"tuning.iters": 2}, resume=True)


def test_a_folder_of_somebody_else_is_never_deleted(model: Path, tmp_path: Path) -> None:
    own = tmp_path / "out.journal"
    own.mkdir()
    (own / "thesis").write_text("precious")
    with pytest.raises(OutputError, match="contains unexpected file 'thesis'"):
        quantize(model, tmp_path / "out", restart=True)
    assert (own / "thesis").read_text() == "precious"


def test_plain_rounding_keeps_no_journal(model: Path, tmp_path: Path) -> None:
    names: list[str] = []

    def sink(event: Event) -> None:
        names.extend(p.name for p in tmp_path.iterdir())

    quantize(model, tmp_path / "out", NEAREST, sink=sink)
    assert set(names) == {"out.partial", "out"}


def test_a_disk_without_room_for_the_journal(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[Planned] = []

    def sink(event: Event) -> None:
        plans.extend([event] if isinstance(event, Planned) else [])

    quantize(model, tmp_path / "one", sink=sink)
    estimate = plans[0].estimate
    room = 2 * estimate.disk_bytes + estimate.journal_bytes // 2
    monkeypatch.setattr(shutil, "disk_usage", _usage(room))
    events: list[Event] = []
    quantize(model, tmp_path / "two", sink=events.append)
    assert [e.message for e in events if isinstance(e, Warned)] == [
        "the disk has no room for the 0.0 GB that would keep what is done, so this run cannot be "
        "resumed when it is interrupted"
    ]
    assert content(tmp_path / "two") == content(tmp_path / "one")
    on_disk(monkeypatch)
    with pytest.raises(OutputError, match=r"for streams, in .* GB free"):
        quantize(model, tmp_path / "three")


def _usage(free: int) -> Callable[[Path], Any]:
    from types import SimpleNamespace

    return lambda path: SimpleNamespace(total=10**12, used=0, free=free)


def test_memory_that_one_block_does_not_fit_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"about 0\.6 GB .* allows 0\.1 GB: lower"):
        quantize(model, tmp_path / "out", max_memory=10**8)
    assert list(tmp_path.iterdir()) == []


def test_a_budget_sends_streams_to_the_disk(model: Path, tmp_path: Path) -> None:
    plans: list[Planned] = []

    def sink(event: Event) -> None:
        plans.extend([event] if isinstance(event, Planned) else [])

    quantize(model, tmp_path / "one", sink=sink)
    least = plans[0].estimate.memory_bytes - 1
    quantize(model, tmp_path / "two", sink=sink, max_memory=least)
    one, two = (planned.estimate for planned in plans)
    assert (one.streams_on_disk, two.streams_on_disk) == (False, True)
    assert one.memory_bytes - two.memory_bytes == one.stream_bytes == 2 * 4 * 16 * 64 * 4
    assert content(tmp_path / "one") == content(tmp_path / "two")
