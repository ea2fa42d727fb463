"""The commands at the end of a run, with the output's own path."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from autoround.report.next_steps import next_step_lines
from autoround.types import EngineFinding, OutputPlan

from ._values import plan


def finding(engine: str, effect: str, command: str, name: str = "auto_round") -> EngineFinding:
    return EngineFinding(engine, "1", "2026-11-29", name, effect, "", command, "run")


def test_packed_layers_are_loaded_by_this_package_and_served_by_who_takes_them() -> None:
    served = replace(
        plan(),
        serving=(
            finding("sglang", "refuses", "another group size"),
            finding("sglang", "takes", "python -m sglang --model FOLDER"),
            finding("vllm", "takes", "vllm serve FOLDER"),
        ),
    )
    assert next_step_lines(served, Path("my out")) == [
        """generate     autoround generate 'my out' "The capital of France is\"""",
        """load         python -c "import autoround; model = autoround.load('my out')\"""",
        "serve        vllm serve 'my out'",
    ]


def test_what_no_engine_takes_is_not_served() -> None:
    lines = next_step_lines(replace(plan(), serving=(finding("vllm", "refuses", "x"),)), Path("o"))
    assert [line.split()[0] for line in lines] == ["generate", "load"]


def test_a_path_that_a_shell_would_read_is_quoted() -> None:
    load = next_step_lines(plan(), Path("a$b"))[1]
    assert load.startswith("load         python -c 'import autoround")


def test_each_format_of_several_has_its_own(tmp_path: Path) -> None:
    (tmp_path / "gguf").mkdir()
    (tmp_path / "gguf" / "model.gguf").touch()
    both = replace(
        plan(),
        outputs=(
            OutputPlan("gguf:q4_0", "gguf:q4_0", "float16", "gguf"),
            OutputPlan("fake", "fake", "bfloat16", "fake"),
        ),
        serving=(finding("llama.cpp", "takes", "llama-server -m FILE.gguf", "gguf:q4_0"),),
    )
    lines = next_step_lines(both, tmp_path)
    assert lines[0] == "gguf:q4_0:"
    assert f"serve        llama-server -m {tmp_path / 'gguf' / 'model.gguf'}" in lines
    # Nothing of ours loads a GGUF file in Python.
    assert not any(line.startswith("load") and "gguf" in line for line in lines)
    assert any("AutoModelForCausalLM" in line for line in lines)
