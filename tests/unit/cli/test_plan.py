from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import pytest
from typer.models import OptionInfo

from autoround.cli._options import Engines
from autoround.planning.serving.table import engine_table

from .conftest import Command

NEAREST = ["--recipe", "rtn", "--group-size", "32"]


def test_a_plan_in_words(
    autoround: Command, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = autoround("plan", model, *NEAREST, "--set", "ignore=['o_proj']")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0] == f"model        {model} (LlamaForCausalLM, 2 blocks)"
    assert "quantize     12 layers to W4 g32 sym" in lines
    assert any(line.endswith("and 1 more: ignored by the recipe ('o_proj')") for line in lines)
    assert any("kept tensors are float32 in the model" in line for line in lines)
    assert list(tmp_path.iterdir()) == []


def test_a_newer_transformers_than_tested_is_named_once_beside_the_plan(
    autoround: Command, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet = autoround("plan", model, *NEAREST, "--json")
    monkeypatch.setattr("autoround.tested.NEWEST_TRANSFORMERS", "5.0")
    done = autoround("plan", model, *NEAREST, "--json")
    assert (done.code, done.out.count("\n")) == (0, quiet.out.count("\n"))
    (line,) = done.err.splitlines()
    assert re.match(r"warning: transformers \d\S+ is newer than 5\.0, ", line)


def test_the_model_may_be_named_by_an_option(autoround: Command, model: Path) -> None:
    one = autoround("plan", model, *NEAREST)
    two = autoround("plan", "--model", model, "--recipe", "rtn", "--group_size", 32)
    assert one == two
    assert autoround("plan", model, "--model", "other").code == 2


def test_the_options_of_quantize_are_those_of_plan(autoround: Command, model: Path) -> None:
    options = ["--format", "auto_gptq,auto_awq", "--nsamples", 4, "--seqlen", 16, "--iters", 0]
    done = autoround("plan", model, *NEAREST, *options)
    assert (done.code, done.err) == (0, "")
    assert "format       auto_gptq, packing gptq; kept tensors float16; in auto_gptq/" in done.out
    assert "format       auto_awq, packing awq; kept tensors float16; in auto_awq/" in done.out
    written = autoround("quantize", model, *NEAREST, *options, "--dry-run")
    assert written == done


def test_layers_are_listed_when_asked(autoround: Command, model: Path) -> None:
    short = autoround("plan", model, *NEAREST).out.splitlines()
    long = autoround("plan", model, *NEAREST, "--layers").out.splitlines()
    assert long[: len(short)] == short
    layers = long[len(short) :]
    assert len(layers) == 15
    assert layers[0].split() == [
        "model.layers.0.self_attn.q_proj",
        "64",
        "x",
        "64",
        "W4",
        "g32",
        "sym",
    ]
    assert layers[-1].split(maxsplit=4) == [
        "lm_head",
        "128",
        "x",
        "64",
        "kept: outside the decoder blocks",
    ]


def test_a_probe_measures_the_time_and_writes_nothing(
    autoround: Command, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = autoround("plan", model, *NEAREST, "--probe", "--json")
    assert (done.code, done.err) == (0, "")
    estimate = json.loads(done.out)["estimate"]
    total = sum(seconds for _, seconds in estimate["probed"])
    assert 0 < estimate["seconds_low"] < total < estimate["seconds_high"]
    words = autoround("plan", model, *NEAREST, "--probe").out
    assert ", by a probe: write and verify" in words
    assert autoround("plan", model, *NEAREST, "--probe", "--device", "null").code == 2
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_probe_ends_clean(
    autoround: Command, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("autoround.tuning.block.BlockTuner.tune", interrupt)
    done = autoround("plan", model, *NEAREST, "--probe")
    assert done.code == 130
    assert done.err.startswith("interrupted: ")
    assert done.out == ""


@pytest.mark.parametrize("device", ["cpu", "null"])
def test_json_is_one_object_of_plan_and_estimate(
    autoround: Command, model: Path, device: str, tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("some words to calibrate on\n" * 9)
    done = autoround(
        "plan", model, "--json", "--bits", 2, "--asym", "--group-size", 32, "--device", device,
        "--set", f"calibration.dataset={text}", "--set", "calibration.nsamples=2",
        "--set", "calibration.seqlen=16",
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    found = json.loads(done.out, parse_constant=refuse)
    assert found.keys() == {"plan", "estimate"}
    assert found["plan"]["blocks"][0]["layers"][0]["scheme"] == {
        "bits": 2,
        "group_size": 32,
        "sym": False,
        "kind": "int",
    }
    assert found["estimate"]["disk_bytes"] > 0
    assert (found["estimate"]["seconds_high"] is None) == (device == "null")


def test_a_missing_model_and_a_wrong_recipe(autoround: Command, model: Path) -> None:
    assert autoround("plan", "./gone", *NEAREST).code == 4
    done = autoround("plan", model, "--bits", 1, "--set", "tuning.iters=x")
    assert done.code == 3
    assert len(done.err.splitlines()) == 2


def test_what_rules_came_to(autoround: Command, model: Path, tmp_path: Path) -> None:
    rules = "layers=[{kind: attention, bits: 8}, {match: q_proj, blocks: 1, bits: 16}]"
    done = autoround("plan", model, *NEAREST, "--set", rules, "--set", "output.dtype=bfloat16")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert "rule         layers[0] attention: 7 layers of 0.0 M weights to W8 g32 sym; " in done.out
    assert "; later rules decide 1 more" in done.out
    assert "rule         layers[1] 'q_proj', blocks 1: 1 layer of 0.0 M weights to 16 bit" in lines
    # 7 of the 8 matrices of attention in 8.5 bits, one in 16, the MLP in 4.5.
    average = ((20480 * 8.75) + 4096 * 16 + 36864 * 4.625) / 61440
    assert f"average      {average:.3f} bits per weight of the blocks on the disk" in done.out
    path = tmp_path / "mine.yaml"
    path.write_text("extends: rtn\nlayers:\n- kind: mlp\n  bits: 8\n- {match: q_porj, bits: 8}\n")
    failed = autoround("plan", model, "--recipe", path, "--group-size", 32)
    assert failed.code == 3
    assert (
        f"{path}:5: layers[1]: 'q_porj' matches no layer of this model; did you mean" in failed.err
    )


def test_what_engines_do_is_said_when_asked(autoround: Command, model: Path) -> None:
    options = [*NEAREST, "--asym", "--format", "auto_gptq,auto_awq"]
    short = autoround("plan", model, *options)
    lines = [line for line in short.out.splitlines() if line.startswith("serving")]
    assert [line.split()[1] for line in lines] == ["auto_gptq:", "auto_awq:"]
    asked = autoround("plan", model, *options, "--for", "vllm,mlx", "--for", "sglang")
    assert asked.code == 0
    lines = [line for line in asked.out.splitlines() if line.startswith("serving")]
    assert any(line.startswith("serving      vLLM 0.32.0 refuses 14 layers of") for line in lines)
    assert any(line.startswith("serving      mlx-lm 0.32.2 takes auto_awq: ") for line in lines)
    assert not any("llama.cpp" in line for line in lines)
    written = autoround("quantize", model, *options, "--for", "vllm,mlx,sglang", "--dry-run")
    assert written == asked


def test_facts_about_clients_are_said_when_asked_and_once(autoround: Command, model: Path) -> None:
    options = [*NEAREST, "--bits", 3, "--asym", "--format", "compressed-tensors,gptq_v2"]
    short = autoround("plan", model, *options)
    lines = [line for line in short.out.splitlines() if line.startswith("serving")]
    assert len(lines) == 2
    # Earlier versions of the library misread these without an error, which nobody would ask about.
    assert "read otherwise by compressed-tensors before 0.18.0" in lines[0]
    assert not any(line.startswith("note") and "vLLM" in line for line in short.out.splitlines())
    asked = autoround("plan", model, *options, "--for", "compressed-tensors")
    assert (
        "serving      library compressed-tensors before 0.18.0 reads 14 layers of "
        "compressed-tensors otherwise, such as"
    ) in asked.out


def test_an_unknown_engine_is_a_mistake_in_usage(autoround: Command, model: Path) -> None:
    for command in ("plan", "quantize"):
        done = autoround(command, model, *NEAREST, "--for", "vllm", "--for", "tgi")
        assert (done.code, done.out) == (2, "")
        assert "--for tgi" in done.err
        assert "legal: vllm, sglang, llama.cpp, mlx, transformers" in done.err


def test_help_names_every_engine() -> None:
    (option,) = [x for x in get_args(Engines) if isinstance(x, OptionInfo)]
    words = re.findall(r"[\w.-]+", option.help or "")
    assert engine_table().keys() <= set(words)


def test_json_has_what_engines_do(autoround: Command, model: Path) -> None:
    every = json.loads(autoround("plan", model, *NEAREST, "--json").out)["plan"]["serving"]
    assert {finding["engine"] for finding in every} == {
        *("vllm", "sglang", "llama.cpp", "mlx", "transformers"),
        *("gptqmodel", "auto-round", "compressed-tensors"),
    }
    asked = json.loads(autoround("plan", model, *NEAREST, "--json", "--for", "vllm").out)
    (finding,) = asked["plan"]["serving"]
    assert (finding["engine"], finding["effect"]) == ("vllm", "takes")
