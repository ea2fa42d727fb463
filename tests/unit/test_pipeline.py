from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from autoround import api
from autoround.device.protocol import Memory
from autoround.device.registry import open_device
from autoround.errors import DataError, ModelError, OutputError
from autoround.events import BlockDone, Event, Finished, Planned, StageStarted, Warned
from autoround.export import safetensors_writer as outputs
from autoround.model.skeleton import Skeleton, adopt_model, open_model
from autoround.pipeline import run
from autoround.preparation import Request, prepare
from autoround.recipe.load import load_recipe
from autoround.tuning.block import BlockTuner
from autoround.types import RunResult

from ..runs import NEAREST, names_of, small, tensors_of
from ..tiny import make_model, make_tokenizer, token_ids

IDS = token_ids(4, 16)


def request(model: Any, values: dict[str, object] | None = None, **others: Any) -> Request:
    skeleton: Skeleton = open_model(model) if isinstance(model, Path) else adopt_model(model)
    others.setdefault("data", IDS)
    return Request(skeleton, small(values), open_device("cpu"), "tiny", **others)


@pytest.fixture
def done(checkpoint: Callable[[str], Path], tmp_path: Path) -> tuple[RunResult, list[Event]]:
    events: list[Event] = []
    return run(request(checkpoint("llama")), tmp_path / "out", sink=events.append), events


def test_the_result_tells_what_was_done(done: tuple[RunResult, list[Event]]) -> None:
    result, _ = done
    files = list(result.output_dir.iterdir())
    assert result.disk_bytes == sum(path.stat().st_size for path in files)
    assert [block.name for block in result.blocks] == ["model.layers.0", "model.layers.1"]
    assert all(block.loss_after <= block.loss_before for block in result.blocks)
    assert 0 < result.tuning_seconds <= result.seconds
    assert result.peak_bytes > 0
    assert result.bits_per_weight == 4.625
    assert result.evaluation is None


def test_events_come_in_order(done: tuple[RunResult, list[Event]]) -> None:
    result, events = done
    assert names_of(events) == [
        "Planned",
        "StageStarted",
        *("StepDone", "BlockDone") * 2,
        "StageStarted",
        "Finished",
    ]
    assert isinstance(events[0], Planned)
    assert events[0].plan == result.plan
    stages = [event for event in events if isinstance(event, StageStarted)]
    assert stages == [
        StageStarted("tune", "2 blocks on cpu"),
        StageStarted("write", str(result.output_dir)),
        StageStarted("verify", "a batch of 16 tokens through the files read back"),
    ]
    blocks = [event for event in events if isinstance(event, BlockDone)]
    assert [event.result for event in blocks] == list(result.blocks)
    assert events[-1] == Finished(str(result.output_dir), result.seconds, result.disk_bytes)


def test_the_folder_holds_all_that_describes_it(
    done: tuple[RunResult, list[Event]], checkpoint: Callable[[str], Path]
) -> None:
    result, _ = done
    out, source = result.output_dir, checkpoint("llama")
    names = {path.name for path in out.iterdir()}
    assert names == {
        "model.safetensors",
        "recipe.yaml",
        "plan.json",
        "report.jsonl",
        "run.json",
        *(path.name for path in source.iterdir()),
    }
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (out / name).read_bytes() == (source / name).read_bytes()
    assert load_recipe(out / "recipe.yaml") == small()
    plan = json.loads((out / "plan.json").read_text())
    version = plan.pop("version")
    assert isinstance(version, str)
    # What engines make of it depends on a table that changes, and not on the run.
    planned = json.loads(json.dumps(dataclasses.asdict(result.plan)))
    assert planned.pop("serving")
    assert plan == planned
    report = [json.loads(line) for line in (out / "report.jsonl").read_text().splitlines()]
    assert report == [dataclasses.asdict(block) for block in result.blocks]


def test_the_config_is_the_models_and_says_what_was_quantized(
    done: tuple[RunResult, list[Event]], checkpoint: Callable[[str], Path]
) -> None:
    config = json.loads((done[0].output_dir / "config.json").read_text())
    quantization = config.pop("quantization_config")
    original = json.loads((checkpoint("llama") / "config.json").read_text())
    # Besides, one key under the name that older programs know.
    assert config == {**original, "rope_theta": original["rope_parameters"]["rope_theta"]}
    assert quantization["quant_method"] == "auto-round"
    assert (quantization["bits"], quantization["group_size"], quantization["sym"]) == (4, 32, True)


def test_tensors_have_the_layout_and_the_dtypes_of_the_plan(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    source = checkpoint("gpt2")
    result = run(
        request(source, {**NEAREST, "output.dtype": "bfloat16"}),
        tmp_path / "out",
        sink=lambda event: None,
    )
    written, original = tensors_of(tmp_path / "out"), tensors_of(source)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    layers = [x for block in result.plan.blocks for x in block.quantized]
    assert len(layers) == 8
    for layer in layers:
        assert layer.name + ".weight" not in written
        assert written[layer.name + ".qweight"].dtype == torch.int32
        assert written[layer.name + ".scales"].dtype == torch.float16
    for name in ("transformer.wte.weight", "transformer.h.1.ln_1.bias"):
        assert torch.equal(written[name], original[name].to(torch.bfloat16))
    assert len(written) == len(original) + 2 * len(layers)


def test_the_report_of_a_run_without_tuning_is_json_too(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    def refuse(text: str) -> None:
        raise AssertionError(f"{text} is not JSON")

    result = run(request(checkpoint("llama"), NEAREST), tmp_path / "out", sink=lambda event: None)
    assert math.isnan(result.blocks[0].loss_before)
    lines = (tmp_path / "out" / "report.jsonl").read_text().splitlines()
    report = [json.loads(line, parse_constant=refuse) for line in lines]
    assert [line["index"] for line in report] == [0, 1]
    assert all(line["loss_before"] is line["loss_after"] is None for line in report)


def test_a_model_in_memory_writes_its_own_side_files(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(request(make_model("llama"), tokenizer=make_tokenizer()), out, sink=lambda event: None)
    names = {path.name for path in out.iterdir()}
    assert {"tokenizer.json", "tokenizer_config.json", "generation_config.json"} <= names
    config = json.loads((out / "config.json").read_text())
    assert config["model_type"] == "llama"
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["dtype"] == "float32"


def test_tied_weights_are_written_once(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    skeleton = open_model(checkpoint("gpt2"))
    assert skeleton.tied
    run(request(checkpoint("gpt2"), NEAREST), tmp_path / "out", sink=lambda event: None)
    written = tensors_of(tmp_path / "out")
    assert "transformer.wte.weight" in written
    assert not set(skeleton.tied) & set(written)


class Stop(BaseException):
    """Stands for anything that may end a run."""


@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("after", ["BlockDone", "StageStarted", "StepDone"])
def test_a_run_that_is_stopped_leaves_finished_blocks_alone(
    after: str,
    error: type[BaseException],
    checkpoint: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    def sink(event: Event) -> None:
        if type(event).__name__ == after:
            raise error("stopped")

    with pytest.raises(error, match="stopped"):
        run(request(checkpoint("llama")), tmp_path / "out", sink=sink)
    kept = ["out.journal"] if after == "BlockDone" else []
    assert [path.name for path in tmp_path.iterdir()] == kept


def test_a_run_that_fails_while_writing_leaves_nothing(
    checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(outputs, "output_config", fail)
    with pytest.raises(KeyboardInterrupt):
        run(request(checkpoint("llama"), NEAREST), tmp_path / "out", sink=lambda event: None)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make any block that is quantized a failure."""

    def tune(tuner: object, block: object) -> object:
        raise AssertionError("work was begun")

    monkeypatch.setattr(BlockTuner, "tune", tune)


@pytest.mark.usefixtures("no_work")
def test_an_output_in_the_way_is_found_before_any_work(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    (tmp_path / "precious").write_text("x")
    events: list[Event] = []
    with pytest.raises(OutputError, match="not empty"):
        run(request(checkpoint("llama")), tmp_path, sink=events.append)
    assert events == []


@pytest.mark.usefixtures("no_work")
def test_too_little_room_is_found_before_any_work(
    checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10, 5, 5))
    with pytest.raises(OutputError, match=r"GB free"):
        run(request(checkpoint("llama")), tmp_path / "out", sink=lambda event: None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize(
    ("values", "data", "error"),
    [
        ({"scheme.group_size": 128}, IDS, ModelError),
        ({}, [], DataError),
        ({}, [[1, 2, 4096]], DataError),
        ({"calibration.dataset": "gone.txt"}, None, DataError),
    ],
)
def test_mistakes_are_found_before_any_work(
    values: dict[str, object],
    data: object,
    error: type[Exception],
    checkpoint: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    with pytest.raises(error):
        run(
            request(checkpoint("llama"), values, data=data),
            tmp_path / "out",
            sink=lambda event: None,
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("free", "warned"), [(1 << 20, True), (1 << 40, False), (0, False)])
def test_too_little_memory_is_a_warning(
    free: int, warned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = request(make_model("llama"))
    monkeypatch.setattr(asked.runtime, "memory", lambda: Memory(1 << 40, free))
    events: list[Event] = []
    prepare(asked, sink=events.append)
    assert names_of(events) == ["Planned", "Warned"][: 1 + warned]
    for event in events[1:]:
        assert isinstance(event, Warned)
        assert "0.0 GB are free" in event.message


@pytest.mark.parametrize(
    "name", ["model.norm.weight", "model.embed_tokens.weight", "model.layers.1.mlp.up_proj.weight"]
)
@pytest.mark.parametrize("formats", ["auto_round,auto_gptq", "gguf:q8_0"])
def test_a_model_that_holds_nan_is_never_written(
    formats: str, name: str, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "nan"
    shutil.copytree(checkpoint("llama"), folder)
    for file in folder.glob("tokenizer*"):
        file.unlink()
    tensors = tensors_of(folder)
    tensors[name].flatten()[3] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    recipe = small({**NEAREST, "output.format": formats})
    with pytest.raises(ModelError, match=rf"nan: {name} holds NaN"):
        api.quantize(folder, recipe, output_dir=tmp_path / "out", device="cpu")
    assert [path.name for path in tmp_path.iterdir()] == ["nan"]
