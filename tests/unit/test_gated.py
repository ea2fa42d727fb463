"""Runs that are held to a gate: what is written, marked, told and refused."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import autoround
from autoround import gated
from autoround.checkpoints.inspect import inspect_folder
from autoround.errors import DataError, GateError, UsageError
from autoround.events import Event, Judged, StageStarted, WindowScored
from autoround.gated import MissedGateError, open_gate
from autoround.model.files.gate_mark import MARK, GateFailedWarning
from autoround.model.skeleton import open_model
from autoround.recipe.schema import Recipe
from autoround.request import make_request
from autoround.types import Destination

from ..runs import NEAREST, small

PASSES = "ppl<=1.5x,kl<=0.5"
MISSES = "ppl<=1.5x,kl<=0.00000001"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog, again and again\n" * 12)
    return path


def recipe(text: Path, gate: str, **values: object) -> Recipe:
    dotted = {key.replace("__", "."): value for key, value in values.items()}
    return small(
        {
            **NEAREST,
            "evaluation.gate": gate,
            "evaluation.text": str(text),
            "evaluation.seqlen": 32,
            **dotted,
        }
    )


def test_a_result_that_passes_has_its_figures_beside_it(
    checkpoint: Callable[[str], Path], text: Path, tmp_path: Path
) -> None:
    told: list[Event] = []
    out = tmp_path / "out"
    result = autoround.quantize(
        checkpoint("llama"), recipe(text, PASSES), output_dir=out, device="cpu", sink=told.append
    )
    figures = json.loads((out / "evaluation.json").read_text())
    assert result.evaluation is not None
    assert figures["perplexity"] == result.evaluation.perplexity
    assert figures["kl"] == result.evaluation.kl
    assert figures["top1_agreement"] == result.evaluation.top1_agreement
    assert figures["text"] == str(text)
    assert figures["gate"] == {"bounds": PASSES, "passed": True, "failures": []}
    assert not (out / MARK).exists()
    assert any(isinstance(event, StageStarted) and event.stage == "gate" for event in told)
    assert any(isinstance(event, WindowScored) for event in told)
    (judged,) = [event for event in told if isinstance(event, Judged)]
    assert (judged.figures, judged.failures) == (result.evaluation, ())


def test_a_result_that_misses_stays_and_is_marked(
    checkpoint: Callable[[str], Path], text: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(MissedGateError, match="KL divergence is .* asks for kl<=1e-08") as error:
        autoround.quantize(checkpoint("llama"), recipe(text, MISSES), output_dir=out, device="cpu")
    assert isinstance(error.value, GateError)
    assert error.value.exit_code == 10
    assert error.value.result.output_dir == out
    assert json.loads((out / "evaluation.json").read_text())["gate"]["passed"] is False
    assert "KL divergence" in (out / MARK).read_text()
    with pytest.warns(GateFailedWarning, match="missed the gate"):
        autoround.load(out, device="cpu")
    assert "missed the gate" in inspect_folder(out).notes[0]


def test_transformers_own_loader_warns_too(
    checkpoint: Callable[[str], Path], text: Path, tmp_path: Path
) -> None:
    import transformers

    out = tmp_path / "out"
    with pytest.raises(GateError):
        autoround.quantize(checkpoint("llama"), recipe(text, MISSES), output_dir=out, device="cpu")
    with pytest.warns(GateFailedWarning, match="missed the gate"):
        transformers.AutoModelForCausalLM.from_pretrained(out)


def test_another_gate_judges_again_and_quantizes_nothing(
    checkpoint: Callable[[str], Path], text: Path, tmp_path: Path
) -> None:
    out, model = tmp_path / "out", checkpoint("llama")
    again = Destination(out, resume=True)
    with pytest.raises(GateError):
        autoround.quantize(model, recipe(text, MISSES), output_dir=out, device="cpu")
    before = (out / "model.safetensors").stat().st_mtime_ns
    autoround.quantize(model, recipe(text, PASSES), output_dir=again, device="cpu")
    assert (out / "model.safetensors").stat().st_mtime_ns == before
    assert not (out / MARK).exists()
    with warnings.catch_warnings():
        warnings.simplefilter("error", GateFailedWarning)
        autoround.load(out, device="cpu")


def test_overflow_in_what_was_written_is_found(
    checkpoint: Callable[[str], Path], text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_and_break(*arguments: Any, **options: Any) -> Any:
        result = run(*arguments, **options)
        path = result.output_dir / "model.safetensors"
        tensors = load_file(path)
        name = "model.norm.weight"
        tensors[name] = torch.full_like(tensors[name], 3e38)
        save_file(tensors, path, {"format": "pt"})
        return result

    run = gated.run
    monkeypatch.setattr(gated, "run", run_and_break)
    out = tmp_path / "out"
    with pytest.raises(GateError, match="its logits hold NaN or infinity at 32 of 32 tokens"):
        autoround.quantize(
            checkpoint("llama"), recipe(text, "ppl<=100x"), output_dir=out, device="cpu"
        )
    assert json.loads((out / "evaluation.json").read_text())["perplexity"] is None


def test_a_process_that_ends_while_it_judges_leaves_a_mark(
    checkpoint: Callable[[str], Path], text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(gated, "judge", interrupted)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        autoround.quantize(checkpoint("llama"), recipe(text, PASSES), output_dir=out, device="cpu")
    assert "was not finished" in (out / MARK).read_text()


def test_each_of_several_formats_is_judged(
    checkpoint: Callable[[str], Path], text: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    told: list[Event] = []
    both = recipe(text, PASSES, output__format="auto_round,auto_gptq")
    autoround.quantize(checkpoint("llama"), both, output_dir=out, device="cpu", sink=told.append)
    folders = [Path(event.folder).parent for event in told if isinstance(event, Judged)]
    assert folders == [out, out]
    assert len(list(out.glob("*/evaluation.json"))) == 2


def test_the_class_holds_to_its_gate(
    checkpoint: Callable[[str], Path], text: Path, tmp_path: Path
) -> None:
    tuner = autoround.AutoRound(
        str(checkpoint("llama")), recipe="rtn", group_size=32, device="cpu",
        gate=MISSES, eval_text=text, overrides=["evaluation.seqlen=32"],
    )  # fmt: skip
    with pytest.raises(GateError):
        tuner.quantize_and_save(tmp_path / "one")
    tuner.quantize()
    with pytest.raises(GateError):
        tuner.save_quantized(tmp_path / "two")
    assert (tmp_path / "one" / MARK).exists()
    assert (tmp_path / "two" / MARK).exists()


def test_a_model_in_memory_is_its_own_original(
    checkpoint: Callable[[str], Path], text: Path, tmp_path: Path
) -> None:
    import transformers

    folder = checkpoint("llama")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    out = tmp_path / "out"
    asked = recipe(text, PASSES)
    with pytest.raises(UsageError, match="the gate scores text: give the tokenizer"):
        autoround.quantize(model, asked, output_dir=out, device="cpu")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    in_memory = autoround.quantize(model, asked, output_dir=out, device="cpu", tokenizer=tokenizer)
    by_name = autoround.quantize(folder, asked, output_dir=tmp_path / "named", device="cpu")
    assert in_memory.evaluation is not None
    assert by_name.evaluation is not None
    assert in_memory.evaluation.kl == pytest.approx(by_name.evaluation.kl)


def test_what_could_not_be_judged_is_refused_before_the_run(
    checkpoint: Callable[[str], Path], text: Path, tmp_path: Path
) -> None:
    missing = tmp_path / "missing.txt"
    out = tmp_path / "out"
    with pytest.raises(DataError):
        autoround.quantize(
            checkpoint("llama"), recipe(missing, PASSES), output_dir=out, device="cpu"
        )
    gpt2 = checkpoint("gpt2")
    with pytest.raises(UsageError, match=r"positions for \d+ only; set evaluation.seqlen"):
        autoround.quantize(
            gpt2, recipe(text, PASSES, evaluation__seqlen=4096), output_dir=out, device="cpu"
        )
    assert not out.exists()


def test_a_streamed_model_has_no_original_to_compare_with(
    checkpoint: Callable[[str], Path], text: Path
) -> None:
    folder = checkpoint("llama")
    request = make_request(folder, recipe(text, PASSES), device="cpu")
    streamed: Any = object()
    skeleton = dataclasses.replace(open_model(folder), stream=streamed)
    with pytest.raises(UsageError, match="--stream-hub .* ppl<=1.5x compares"):
        open_gate(dataclasses.replace(request, skeleton=skeleton))
    alone = dataclasses.replace(request, skeleton=skeleton, recipe=recipe(text, "ppl<=900"))
    assert open_gate(alone) is not None
