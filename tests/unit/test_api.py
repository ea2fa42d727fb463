# Tests: autoround/auto_round.py, autoround/request.py
from __future__ import annotations

import dataclasses
import inspect
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import autoround
from autoround.api import probe
from autoround.auto_round import AutoRound
from autoround.errors import DataError, DeviceError, OutputError, RecipeError, UsageError
from autoround.events import BlockDone, Event, Planned
from autoround.recipe.flags import RUN_FLAGS
from autoround.recipe.load import load_recipe
from autoround.request import open_any
from autoround.tuning import block as tune
from autoround.types import LayerPlan

from ..runs import NEAREST, SMALL, even_device, logits, names_of, small, tensors_of
from ..tiny import make_model, make_tokenizer, token_ids

__all__ = ["even_device"]

IDS = token_ids(4, 16)
TEST = token_ids(3, 12, seed=9)
TEXTS = ["the quick brown fox jumps over the lazy dog"] * 4
SETTINGS = tuple(f"{path}={value}" for path, value in SMALL.items() if path.startswith("tuning."))
Make = Callable[[str], Path]


def quick(model: Any, **arguments: Any) -> AutoRound:
    """Return the class with arguments that make it small."""
    given: dict[str, Any] = {
        "group_size": 32,
        "nsamples": 4,
        "seqlen": 16,
        "dataset": IDS,
        "overrides": (*SETTINGS, *arguments.pop("overrides", ("output.dtype=float32",))),
    }
    return AutoRound(model, **{**given, **arguments})


def test_importing_the_package_imports_no_torch() -> None:
    import subprocess
    import sys

    code = "import autoround, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert {"AutoRound", "load", "plan", "quantize"} <= set(dir(autoround))
    with pytest.raises(AttributeError, match="'nonsense'"):
        autoround.nonsense  # noqa: B018


def test_quantize_writes_a_folder_that_loads(checkpoint: Make, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = autoround.quantize(checkpoint("llama"), small(), output_dir=out, data=IDS)
    assert result.output_dir == out
    packed, dense = autoround.load(out), autoround.load(out, dense=True)
    # Packed products round activations to 16 bits.
    torch.testing.assert_close(logits(packed, TEST), logits(dense, TEST), atol=2e-3, rtol=2e-3)
    original = logits(make_model("llama"), TEST)
    assert not torch.allclose(logits(packed, TEST), original, atol=2e-3, rtol=2e-3)


def test_quantize_takes_a_recipe_by_name_or_file(checkpoint: Make, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("extends: rtn\nscheme: {group_size: 32}\n")
    result = autoround.quantize(checkpoint("llama"), path, output_dir=tmp_path / "out")
    assert result.plan.recipe == load_recipe(path).to_dict()
    with pytest.raises(RecipeError, match="did you mean 'rtn'"):
        autoround.quantize(checkpoint("llama"), "rtm", output_dir=tmp_path / "other")


@pytest.mark.parametrize("given", ["path", "model"])
@pytest.mark.parametrize("dtype", ["float32", "auto"])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_reloaded_result_scores_as_the_one_in_memory(
    kind: str, dtype: str, given: str, checkpoint: Make, tmp_path: Path
) -> None:
    model: Any = checkpoint(kind) if given == "path" else make_model(kind)
    run = quick(model, overrides=(f"output.dtype={dtype}",), bits=3)
    dense, _ = run.quantize()
    run.save_quantized(tmp_path / "out")
    expected = logits(dense, TEST)
    assert torch.isfinite(expected).all()
    loaded = autoround.load(tmp_path / "out", dense=True)
    assert torch.equal(logits(loaded, TEST), expected)
    packed = logits(autoround.load(tmp_path / "out"), TEST)
    torch.testing.assert_close(packed, expected, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_two_steps_write_the_same_bytes_as_one(kind: str, checkpoint: Make, tmp_path: Path) -> None:
    steps = quick(checkpoint(kind))
    _, layers = steps.quantize()
    first = steps.save_quantized(tmp_path / "first")
    second = quick(checkpoint(kind)).quantize_and_save(tmp_path / "second")
    name = "model.safetensors"
    assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    assert first.plan == second.plan
    assert [b.loss_after for b in first.blocks] == [b.loss_after for b in second.blocks]
    stored = tensors_of(tmp_path / "first")
    assert {n.removesuffix(".qweight") for n in stored if n.endswith(".qweight")} == set(layers)


def test_a_result_can_be_saved_twice(checkpoint: Make, tmp_path: Path) -> None:
    run = quick(checkpoint("llama"))
    run.quantize()
    for name in ("one", "two"):
        run.save_quantized(tmp_path / name)
    files = [(tmp_path / n / "model.safetensors").read_bytes() for n in ("one", "two")]
    assert files[0] == files[1]
    with pytest.raises(OutputError, match="not empty"):
        run.save_quantized(tmp_path / "one")


def test_saving_before_quantizing(checkpoint: Make, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"call quantize\(\) before save_quantized\(\)"):
        quick(checkpoint("llama")).save_quantized(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_output_in_the_way_stops_before_tuning(checkpoint: Make, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    events: list[Event] = []
    with pytest.raises(OutputError):
        quick(checkpoint("llama"), sink=events.append).quantize_and_save(tmp_path)
    assert events == []


def test_arguments_override_the_recipe_and_settings_override_them(
    checkpoint: Make, tmp_path: Path
) -> None:
    run = AutoRound(
        str(checkpoint("llama")),
        bits=2,
        group_size=16,
        sym=False,
        iters=2,
        lr=0.01,
        minmax_lr=0.02,
        nsamples=3,
        seqlen=8,
        batch_size=1,
        gradient_accumulate_steps=2,
        dataset=IDS,
        seed=7,
        recipe="w3",
        overrides=("scheme.group_size=32", "tuning.num_validations=1"),
    )
    recipe = run.quantize_and_save(tmp_path / "out").plan.recipe
    assert recipe["scheme"] == {"bits": 2, "group_size": 32, "sym": False}
    tuning = recipe["tuning"]
    assert (tuning["iters"], tuning["lr"], tuning["minmax_lr"]) == (2, 0.01, 0.02)
    assert (tuning["batch_size"], tuning["gradient_accumulate_steps"]) == (1, 2)
    assert tuning["num_validations"] == 1
    assert (recipe["calibration"]["nsamples"], recipe["calibration"]["seqlen"]) == (3, 8)
    assert recipe["seed"] == 7
    assert recipe["description"] == load_recipe("w3").description


def test_what_is_not_given_is_the_recipes(checkpoint: Make) -> None:
    plain = AutoRound(checkpoint("llama"))
    assert plain._resolve("auto_round") == load_recipe("default")


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("bits", 9),
        ("bits", "4"),
        ("group_size", -2),
        ("sym", "yes"),
        ("iters", -1),
        ("lr", 0.0),
        ("minmax_lr", math.nan),
        ("nsamples", 0),
        ("seqlen", 0),
        ("batch_size", 0),
        ("gradient_accumulate_steps", 0),
        ("dataset", ""),
        ("seed", -1),
    ],
)
def test_a_wrong_value_is_refused_at_once_and_named(
    argument: str, value: object, checkpoint: Make
) -> None:
    with pytest.raises(RecipeError) as caught:
        AutoRound(checkpoint("llama"), **{argument: value})  # type: ignore[arg-type]
    assert str(caught.value).startswith(f"{argument}={value!r}: ")


def test_several_wrong_values_are_all_named(checkpoint: Make) -> None:
    with pytest.raises(RecipeError) as caught:
        AutoRound(checkpoint("llama"), bits=9, iters=-1, overrides=("tuning.cheks=3",))
    message = str(caught.value)
    assert all(word in message for word in ("bits=9", "iters=-1", "--set tuning.cheks=3"))


def test_a_format_that_does_not_exist(checkpoint: Make, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"format='gguf'.*auto_round"):
        quick(checkpoint("llama")).quantize_and_save(tmp_path / "out", format="gguf")
    assert list(tmp_path.iterdir()) == []


def test_arguments_are_those_of_the_table_of_flags() -> None:
    fields = {field.name: field for field in dataclasses.fields(AutoRound)}
    methods = (AutoRound.save_quantized, AutoRound.quantize_and_save)
    for flag in RUN_FLAGS:
        if flag.name == "format":  # of what is written, so it is asked for where that is done
            assert all("format" in inspect.signature(method).parameters for method in methods)
            continue
        # Explicit in the class, for editors; the table says what it is.
        kind = flag.argument or flag.kind.__name__
        assert fields[flag.name].type == f"{kind} | None"
        assert fields[flag.name].default is None


@pytest.mark.parametrize("wrap", [str, Path])
def test_the_dataset_may_be_a_file(
    wrap: Callable[[str], Any], checkpoint: Make, tmp_path: Path
) -> None:
    path = tmp_path / "calib.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS * 3))
    run = quick(checkpoint("llama"), dataset=wrap(str(path)))
    plan = run.quantize_and_save(tmp_path / "out").plan
    assert "calib.jsonl" in plan.calibration
    assert plan.recipe["calibration"]["dataset"] == str(path)


def test_the_dataset_may_be_texts(checkpoint: Make, tmp_path: Path) -> None:
    ids = [make_tokenizer().encode(text)[:16] for text in TEXTS]
    quick(checkpoint("llama"), dataset=TEXTS).quantize_and_save(tmp_path / "texts")
    quick(checkpoint("llama"), dataset=ids).quantize_and_save(tmp_path / "ids")
    one, other = (tensors_of(tmp_path / name) for name in ("texts", "ids"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_texts_for_a_model_in_memory_need_a_tokenizer(tmp_path: Path) -> None:
    model = make_model("llama")
    with pytest.raises(DataError, match="tokenizer"):
        quick(model, dataset=TEXTS).quantize()
    run = quick(model, dataset=TEXTS, tokenizer=make_tokenizer())
    run.quantize_and_save(tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer.json").is_file()


def test_token_ids_need_no_tokenizer(checkpoint: Make, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes((checkpoint("llama") / name).read_bytes())
    quick(folder).quantize_and_save(tmp_path / "out")
    assert not (tmp_path / "out" / "tokenizer.json").exists()
    with pytest.raises(DataError, match="tokenizer"):
        quick(folder, dataset=TEXTS).quantize()
    with pytest.raises(DataError, match="no tokenizer that can be loaded"):
        quick(folder, dataset=None).quantize()


def test_a_model_in_memory_and_its_tokenizer_make_a_whole_folder(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    model, tokenizer, out = make_model("llama"), make_tokenizer(), tmp_path / "out"
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    run = quick(model, tokenizer=tokenizer)
    dense, _ = run.quantize()
    result = run.save_quantized(out)
    assert result.plan.model == "LlamaForCausalLM"
    assert dense is not model
    assert isinstance(dense, nn.Module)
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)
    text = TEXTS[0]
    assert AutoTokenizer.from_pretrained(out).encode(text) == tokenizer.encode(text)
    assert (out / "generation_config.json").is_file()
    assert torch.equal(logits(autoround.load(out, dense=True), TEST), logits(dense, TEST))


def test_a_model_in_memory_without_tokenizer_writes_none(tmp_path: Path) -> None:
    quick(make_model("llama")).quantize_and_save(tmp_path / "out")
    assert not list((tmp_path / "out").glob("tokenizer*"))


def test_the_sink_is_told_of_the_whole_run(checkpoint: Make, tmp_path: Path) -> None:
    events: list[Event] = []
    quick(checkpoint("llama"), sink=events.append).quantize_and_save(tmp_path / "out")
    assert names_of(events) == [
        "Planned",
        "StageStarted",
        *("StepDone", "BlockDone") * 2,
        "StageStarted",
        "Finished",
    ]
    counts = [type(event).__name__ for event in events]
    assert (counts.count("StepDone"), counts.count("BlockDone")) == (8, 2)
    assert sum(isinstance(event, BlockDone) for event in events) == 2


def test_the_recipe_in_the_output_is_the_one_that_ran(checkpoint: Make, tmp_path: Path) -> None:
    recipe = small({"ignore": ["*.o_proj"], "seed": 3, "scheme.sym": False})
    autoround.quantize(checkpoint("llama"), recipe, output_dir=tmp_path / "a", data=IDS)
    again = load_recipe(tmp_path / "a" / "recipe.yaml")
    assert again == recipe
    autoround.quantize(checkpoint("llama"), again, output_dir=tmp_path / "b", data=IDS)
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in "ab"]
    assert files[0] == files[1]


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make running a block, or rounding a weight, a failure."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("work was begun")

    monkeypatch.setattr(tune.BlockRunner, "__init__", refuse)
    monkeypatch.setattr("autoround.model.files.source.CheckpointSource.read", refuse)
    return


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("device", ["cpu", "null"])
def test_plan_does_no_work(
    device: str, checkpoint: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan, estimate = autoround.plan(checkpoint("llama"), small(), device=device, data=IDS)
    layers = [layer for block in plan.blocks for layer in block.layers]
    assert len(layers) == 14
    assert isinstance(layers[0], LayerPlan)
    assert plan.calibration == "data given by the caller, 4 × 16 tokens"
    assert plan.device == {"cpu": "cpu", "null": "meta"}[device]
    assert estimate.disk_bytes > 0
    assert list(tmp_path.iterdir()) == []


def test_probe_is_the_plan_with_a_measured_time(
    checkpoint: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    planned = autoround.plan(checkpoint("llama"), small(), data=IDS)
    plan, estimate = probe(checkpoint("llama"), small(), data=IDS)
    assert plan == planned[0]
    assert estimate.disk_bytes == planned[1].disk_bytes
    assert 0 < estimate.seconds_low < sum(s for _, s in estimate.probed) < estimate.seconds_high
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UsageError, match="null device computes nothing"):
        probe(checkpoint("llama"), small(), data=IDS, device="null")


def test_plan_is_that_of_the_run(checkpoint: Make, tmp_path: Path) -> None:
    events: list[Event] = []
    plan, estimate = autoround.plan(checkpoint("llama"), small(NEAREST))
    out = tmp_path / "out"
    autoround.quantize(checkpoint("llama"), small(NEAREST), output_dir=out, sink=events.append)
    assert events[0] == Planned(plan, estimate)
    tensors = tensors_of(out).values()
    assert estimate.disk_bytes == sum(t.numel() * t.element_size() for t in tensors)


def test_the_null_device_runs_nothing(checkpoint: Make, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(UsageError, match="null device computes nothing"):
        autoround.quantize(checkpoint("llama"), small(), output_dir=out, device="null", data=IDS)
    run = quick(checkpoint("llama"), device="null")
    with pytest.raises(UsageError, match="null device computes nothing"):
        run.quantize()
    with pytest.raises(UsageError, match="null device computes nothing"):
        run.quantize_and_save(out)
    assert list(tmp_path.iterdir()) == []


def test_a_device_that_is_not_there(checkpoint: Make, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="devices here: auto, cpu"):
        autoround.quantize(checkpoint("llama"), "rtn", output_dir=tmp_path / "o", device="tpu")


def test_models_are_named_as_the_user_names_them(checkpoint: Make) -> None:
    folder = checkpoint("llama")
    assert open_any(folder)[1] == str(folder)
    assert open_any(make_model("gpt2"))[1] == "GPT2LMHeadModel"
