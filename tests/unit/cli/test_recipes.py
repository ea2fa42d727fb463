from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from autoround.cli import recipes
from autoround.errors import OutputError, RecipeError
from autoround.recipe.find import builtin_names, builtin_path
from autoround.recipe.load import load_recipe


def run(*arguments: str) -> Result:
    return CliRunner().invoke(recipes.app, list(arguments))


def test_list_names_and_describes_each_recipe() -> None:
    result = run("list")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(builtin_names())
    for name, line in zip(builtin_names(), lines, strict=True):
        assert line.endswith(load_recipe(name).description)


def test_show_prints_the_file() -> None:
    assert run("show", "w2").stdout == builtin_path("w2").read_text(encoding="utf-8")


def test_show_resolved_prints_a_recipe_that_loads_to_the_same(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(run("show", "w2", "--resolved").stdout, encoding="utf-8")
    assert load_recipe(path) == load_recipe("w2")
    assert "extends" not in path.read_text(encoding="utf-8")


def test_show_of_an_unknown_recipe() -> None:
    result = run("show", "ligth")
    assert isinstance(result.exception, RecipeError)
    assert "did you mean 'light'" in str(result.exception)


def test_copy_to_this_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("copy", "light")
    assert result.exit_code == 0
    assert "Wrote light.yaml" in result.stdout
    assert (tmp_path / "light.yaml").read_bytes() == builtin_path("light").read_bytes()
    assert load_recipe("light.yaml") == load_recipe("light")


def test_copy_to_a_file_or_a_folder(tmp_path: Path) -> None:
    assert run("copy", "light", str(tmp_path)).exit_code == 0
    assert run("copy", "light", str(tmp_path / "mine.yaml")).exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["light.yaml", "mine.yaml"]


def test_copy_does_not_overwrite_without_force(tmp_path: Path) -> None:
    target = tmp_path / "mine.yaml"
    target.write_text("precious")
    result = run("copy", "light", str(target))
    assert isinstance(result.exception, OutputError)
    assert "--force" in str(result.exception)
    assert target.read_text() == "precious"
    assert run("copy", "light", str(target), "--force").exit_code == 0
    assert target.read_bytes() == builtin_path("light").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


def test_copy_to_a_folder_that_is_missing(tmp_path: Path) -> None:
    result = run("copy", "light", str(tmp_path / "gone" / "mine.yaml"))
    assert isinstance(result.exception, OutputError)
    assert "cannot be written" in str(result.exception)


def test_a_failed_copy_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    target = tmp_path / "mine.yaml"
    target.write_text("precious")
    monkeypatch.setattr("os.replace", fail)
    result = run("copy", "light", str(target), "--force")
    assert isinstance(result.exception, OutputError)
    assert "No space left" in str(result.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]
    assert target.read_text() == "precious"


@pytest.mark.skipif(sys.platform == "win32", reason="permissions are of Unix")
def test_a_copy_has_the_permissions_of_a_plain_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    run("copy", "light", str(tmp_path / "mine.yaml"))
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert len(modes) == 1


def test_copy_of_an_unknown_recipe(tmp_path: Path) -> None:
    assert isinstance(run("copy", "ligth", str(tmp_path)).exception, RecipeError)
    assert not list(tmp_path.iterdir())


def test_validate_reports_all_files(tmp_path: Path) -> None:
    good, bad, worse = (tmp_path / name for name in ("good.yaml", "bad.yaml", "worse.yaml"))
    good.write_text("extends: light\n")
    bad.write_text("seed: x\nscheme: {bits: 9}\n")
    worse.write_text("extends: bad.yaml\ntuning: 3\n")
    result = run("validate", str(good), str(bad), str(worse), str(tmp_path / "gone.yaml"))
    assert isinstance(result.exception, RecipeError)
    assert result.exception.exit_code == 3
    assert result.stdout.splitlines() == [f"OK {good}"]
    lines = str(result.exception).splitlines()
    assert [line.split(": ")[0] for line in lines[:3]] == [f"{bad}:1", f"{bad}:2", f"{worse}:2"]
    assert lines[3].startswith("no file ")
    assert len(lines) == 4


def test_validate_knows_the_formats(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("extends: light\noutput:\n  format: auto_gptqq\n")
    result = run("validate", str(file))
    assert isinstance(result.exception, RecipeError)
    assert str(result.exception).startswith(f"{file}:3: output.format: 'auto_gptqq' is no format")
    assert "did you mean 'auto_gptq'?" in str(result.exception)


def test_validate_of_valid_files() -> None:
    files = [str(builtin_path(name)) for name in builtin_names()]
    result = run("validate", *files)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [f"OK {file}" for file in files]


def test_validate_reads_files_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert isinstance(run("validate", "light.yaml").exception, RecipeError)


@pytest.mark.parametrize("command", [[], ["list"], ["show"], ["copy"], ["validate"]])
def test_help_has_examples(command: list[str]) -> None:
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert "Examples:" in result.stdout
    assert "autoround recipes " in result.stdout


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, autoround.cli.recipes;"
        "assert not {'torch', 'pydantic', 'yaml', 'transformers'} & set(sys.modules)"
    )
    root = str(Path(recipes.__file__).parents[2])
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
