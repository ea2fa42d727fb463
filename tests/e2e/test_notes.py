"""What a plan says of formats and of engines, held against the files that are written."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from autoround import api
from autoround.cli import main
from autoround.formats.registry import layout_named
from autoround.recipe.load import load_recipe
from autoround.types import RunResult
from autoround_backends import _native

from ..runs import NEAREST, SMALL
from ..tiny import make_model, write_checkpoint

FORMATS = ("auto_round", "auto_gptq", "gptq_v2", "auto_awq", "compressed-tensors", "mlx", "fake")


def run(out: Path, formats: tuple[str, ...], *, model: Any = None, **values: object) -> RunResult:
    keys = {key.replace("__", "."): value for key, value in values.items()}
    both = {**SMALL, **NEAREST, "output.dtype": "auto", "output.format": ",".join(formats)}
    recipe = load_recipe("rtn", values={**both, **keys})
    return api.quantize(model or make_model("llama"), recipe, output_dir=out, device="cpu")


def files(out: Path, name: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    folder = out / name.replace(":", "-")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config, load_file(folder / "model.safetensors")


def about(result: RunResult, name: str) -> list[str]:
    """Return the notes that name a format."""
    return [n for n in result.plan.notes if name in n.partition(": ")[0].split(", ")]


def test_the_dtype_of_kept_tensors_is_the_one_that_is_written(tmp_path: Path) -> None:
    result = run(tmp_path / "out", FORMATS)
    for name in FORMATS:
        config, tensors = files(tmp_path / "out", name)
        (note,) = [note for note in about(result, name) if "kept tensors" in note]
        (said,) = re.findall(r"written as (\w+)", note)
        assert (config["dtype"], tensors["model.norm.weight"].dtype) == (said, getattr(torch, said))


@pytest.mark.parametrize("group_size", [32, 64])
def test_zero_points_and_packings_are_as_the_notes_say(tmp_path: Path, group_size: int) -> None:
    formats = ("auto_round", "auto_gptq", "gptq_v2")
    result = run(tmp_path / "out", formats, scheme__sym=False, scheme__group_size=group_size)
    for name in formats:
        config, tensors = files(tmp_path / "out", name)
        notes = about(result, name)
        layer = "model.layers.0.mlp.up_proj"
        plan = next(x for x in result.plan.outputs if x.format == name)
        layout = layout_named(plan.packing)
        names = {part: f"{layer}.{part}" for part in layout.parts}
        parts = {part: tensors[key] for part, key in names.items() if key in tensors}
        scheme = next(x.scheme for x in result.plan.layers if x.name == layer)
        assert scheme is not None
        # auto_gptq is in the run: no format of it has a zero point of 0.
        assert int(layout.from_tensors(parts, scheme, name=layer).zero.min()) >= 1
        assert any("holds no zero point of 0" in note for note in notes) == (name == "auto_gptq")
        short = tensors["model.layers.0.mlp.down_proj.scales"].shape[0] * group_size != 96
        assert any("last group of such a row is shorter" in note for note in notes) == short
        rules = {x.rule for x in result.plan.serving if (x.engine, x.format) == ("vllm", name)}
        if name == "auto_round":
            packing = config["quantization_config"]["packing_format"]
            plain = "plain-packing" in rules
            assert (packing == "auto_round") == plain == (group_size == 64)
        else:
            assert "gptq-zero-points" in rules


def test_a_tied_head_is_written_as_the_note_says(tmp_path: Path) -> None:
    model = make_model("llama")
    model.config.tie_word_embeddings = True
    model.tie_weights()
    result = run(tmp_path / "out", ("auto_gptq", "fake"), model=model, lm_head__bits=8)
    assert any("tie_word_embeddings is set to false" in note for note in result.plan.notes)
    for name, part in (("auto_gptq", "qweight"), ("fake", "weight")):
        config, tensors = files(tmp_path / "out", name)
        assert config["tie_word_embeddings"] is False
        assert {f"lm_head.{part}", "model.embed_tokens.weight"} <= tensors.keys()


def test_plain_weights_of_differing_parts_are_nobodys_trouble(tmp_path: Path) -> None:
    rules = [{"match": "q_proj", "bits": 8}]
    result = run(tmp_path / "out", ("auto_round", "fake"), layers=rules)
    differing = {x.format for x in result.plan.serving if x.rule == "merged-differ"}
    assert differing == {"auto_round"}
    _, tensors = files(tmp_path / "out", "fake")
    assert {name.rpartition(".")[2] for name in tensors} == {"weight"}


@pytest.mark.parametrize("command", ["plan", "quantize"])
def test_plain_torch_in_place_of_kernels_is_said(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    missing = _native.Native(None, "no C compiler on the path")
    monkeypatch.setattr(_native, "load", lambda *options, **named: missing)
    write_checkpoint("llama", tmp_path / "m", tokenizer=True)
    options = ["--iters", "1", "--nsamples", "4", "--seqlen", "16", "--group-size", "32"]
    output = ["-o", str(tmp_path / "out")] if command == "quantize" else []
    assert main.run([command, str(tmp_path / "m"), *options, "--device", "cpu", *output]) == 0
    out, err = capfd.readouterr()
    said = "warning: cpu is slower than it could be: fake-quantize and sign step in plain torch"
    assert f"{said}: no C compiler on the path" in " ".join((out + err).split())
