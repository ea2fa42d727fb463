from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from autoround.cli import _options as options
from autoround.cli.main import app, run
from autoround.errors import RecipeError, UsageError
from autoround.recipe.flags import BUDGET_FLAGS, RUN_FLAGS, Flag, flags_named
from autoround.recipe.load import load_recipe

COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def options_of(command: str) -> dict[str, list[str]]:
    """Return the spellings of each option of a command, by the name of its parameter."""
    return {p.name: [*p.opts, *p.secondary_opts] for p in COMMANDS[command].params}


def spellings(flag: Flag) -> list[str]:
    return [word for option in flag.options for word in option.split("/")]


@pytest.mark.parametrize("command", ["quantize", "plan"])
@pytest.mark.parametrize("flag", RUN_FLAGS, ids=lambda flag: flag.name)
def test_every_flag_is_an_option_of_both_commands(flag: Flag, command: str) -> None:
    assert sorted(options_of(command)[flag.name]) == sorted(spellings(flag))
    (parameter,) = (p for p in COMMANDS[command].params if p.name == flag.name)
    assert parameter.help == flag.help
    assert parameter.default is None


def test_allocate_has_budgets_and_what_scoring_depends_on() -> None:
    found = options_of("allocate")
    for flag in (*BUDGET_FLAGS, *flags_named("nsamples", "seqlen", "dataset", "format")):
        assert sorted(found[flag.name]) == sorted(spellings(flag))
    assert not {"bits", "iters", "seed"} & set(found)


def test_flags_stand_where_the_parameter_stood_and_come_as_one_mapping() -> None:
    app = typer.Typer()
    received: list[object] = []

    @app.command()
    @options.with_flags({"flags": flags_named("bits", "sym"), "more": BUDGET_FLAGS[:1]})
    def command(
        first: Annotated[str, typer.Argument()],
        *,
        flags: options.FlagValues,
        middle: Annotated[bool, typer.Option("--middle")] = False,
        more: options.FlagValues,
    ) -> None:
        """Do it."""
        received.extend((first, flags, middle, more))

    assert list(inspect.signature(command).parameters) == [
        "first", "bits", "sym", "middle", "avg_bits", "bit", "target_bits",
    ]  # fmt: skip
    result = CliRunner().invoke(app, ["x", "--asym", "--avg_bits", "2.5", "--middle"])
    assert result.exit_code == 0
    assert received == ["x", {"bits": None, "sym": False}, True, {"avg_bits": 2.5}]
    assert "Do it." in CliRunner().invoke(app, ["--help"]).stdout


def test_the_recipe_is_the_one_named_or_goes_by_the_model() -> None:
    def resolve(name: str | None, model: str | None) -> object:
        return options.resolve_recipe(name, model, {}, overrides=None)

    assert resolve(None, None) == load_recipe("demo")
    assert resolve(None, "a/model") == load_recipe("default")
    assert resolve("light", None) == load_recipe("light")


def test_flags_win_over_the_recipe_and_set_wins_over_flags() -> None:
    flags = {"bits": 3, "iters": None, "options": "W3,16"}
    recipe = options.resolve_recipe("light", "m", flags, overrides=["scheme.bits=2", "seed=1"])
    assert (recipe.scheme.bits, recipe.tuning.iters, recipe.seed) == (2, 50, 1)
    assert recipe.allocate.options == ("W3", "16")


def test_mistakes_are_told_with_the_words_that_were_typed() -> None:
    flags = {"bits": 9, "options": "W3,W9", "seed": -1}
    with pytest.raises(RecipeError) as caught:
        options.resolve_recipe("light", "m", flags, overrides=["tuning.iters=x"])
    origins = {line.split(": ")[0] for line in str(caught.value).splitlines()}
    assert origins == {"--bits 9", "--options W3,W9", "--seed -1", "--set tuning.iters=x"}


def test_memory() -> None:
    assert options.parse_max_memory(None) is None
    assert options.parse_max_memory("8GB") == 8 * 10**9
    with pytest.raises(UsageError, match="--max-memory 8gb: "):
        options.parse_max_memory("8gb")


def test_the_model_has_one_name() -> None:
    assert options.choose_model(None, None) is None
    assert options.choose_model("a", None) == options.choose_model(None, "a") == "a"
    assert options.choose_model("a", "a") == "a"
    with pytest.raises(UsageError, match="two models are named: 'a' and --model 'b'"):
        options.choose_model("a", "b")


def test_a_revision_becomes_part_of_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert options.choose_model("o/n", None, "v1") == "o/n@v1"
    assert options.choose_model(None, "o/n@v1", "v1") == "o/n@v1"
    assert options.at_revision("o/n@v1", None) == "o/n@v1"
    (tmp_path / "o" / "n").mkdir(parents=True)
    for model in ("o/n", str(tmp_path), "name"):
        with pytest.raises(UsageError, match=r"--revision v1: .* is no hub id such as owner/name"):
            options.at_revision(model, "v1")
    with pytest.raises(UsageError, match="two revisions are named: 'v1' and --revision 'v2'"):
        options.at_revision("owner/name@v1", "v2")


@pytest.mark.parametrize("command", ["quantize", "plan", "allocate", "eval", "generate", "bench"])
def test_commands_that_take_a_model_take_a_revision(command: str) -> None:
    assert options_of(command)["revision"] == ["--revision"]


def test_the_command_that_goes_on() -> None:
    typed = options.Invocation(["quantize", "my model", "--restart", "-o", "out"])
    assert typed.resume_command() == "autoround quantize 'my model' -o out --resume"


def hidden(command: str) -> set[str]:
    """Return the spellings of options that the help of a command leaves out."""
    return {word for p in COMMANDS[command].params if p.hidden for word in p.opts}


def test_other_names_are_options_that_the_help_leaves_out() -> None:
    assert {"--low_gpu_mem_usage", "--model_name", "--output", "--device_map"} <= hidden("quantize")
    assert {"--model_name", "--device_map"} <= hidden("plan")
    assert {"--target_bits", "--model_name"} <= hidden("allocate")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["m", "--model_name", "n"], "two models are named"),
        (["--model", "m", "--model_name", "n"], "--model and --model-name are one option"),
        (["m", "--iters", "1", "--iter", "2"], "--iters and --iter are one option"),
        (["m", "--device", "cpu", "--device_map", "0"], "--device and --device-map are one"),
        (["m", "-o", "a", "--output", "b"], "--output-dir and --output are one option"),
    ],
)
def test_two_names_that_say_two_things(
    words: list[str], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["quantize", *words]) == 2
    assert part in capsys.readouterr().err


def test_recipes_are_completed() -> None:
    assert options.complete_recipes("li") == ["light"]
    assert options.complete_recipes("nothing") == []
