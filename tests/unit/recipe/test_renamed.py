from __future__ import annotations

from pathlib import Path

import pytest

from autoround.errors import RecipeError
from autoround.recipe.load import OverrideSource, load_recipe
from autoround.recipe.renamed import RENAMED_KEYS, RENAMED_VALUES, describe_rename, renamed_value
from autoround.recipe.schema import field_paths
from autoround.recipe.values import Legal

#: A value that each key took under its old name.
OLD_VALUES = {
    "distill.codes": "true",
    "tuning.start": "compensated",
    "tuning.init": "search",
    "tuning.checks": "5",
    "tuning.check_samples": "16",
    "tuning.clips": "true",
}


def mistakes(source: str | Path, **arguments: object) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(source, **arguments)  # type: ignore[arg-type]
    return str(caught.value).splitlines()


def test_new_names_exist_and_old_ones_do_not() -> None:
    paths = set(field_paths())
    sections = {path.rpartition(".")[0] for path in paths}
    assert set(RENAMED_KEYS.values()) <= paths | sections
    assert not set(RENAMED_KEYS) & (paths | sections)
    assert OLD_VALUES.keys() == RENAMED_KEYS.keys() - {"distill"}


@pytest.mark.parametrize("path", RENAMED_VALUES)
def test_new_values_are_legal(path: str) -> None:
    legal = field_paths()[RENAMED_KEYS.get(path, path)]
    assert isinstance(legal, Legal)
    for old, new in RENAMED_VALUES[path].items():
        assert new in legal.text
        assert old not in legal.text


@pytest.mark.parametrize("path", OLD_VALUES)
def test_a_file_is_told_the_new_name_where_the_old_one_stands(path: str, tmp_path: Path) -> None:
    section, _, key = path.partition(".")
    file = tmp_path / "mine.yaml"
    file.write_text(f"extends: light\n\n{section}:\n  {key}: {OLD_VALUES[path]}\n")
    message = mistakes(file)[-1]
    assert message.startswith(f"{file}:4: unknown key {path}: {path} is now {RENAMED_KEYS[path]}")
    assert message.endswith("; write the new name")


@pytest.mark.parametrize("path", OLD_VALUES)
def test_set_and_flags_are_told_the_new_name(path: str) -> None:
    (message,) = mistakes("light", overrides=[f"{path}={OLD_VALUES[path]}"])
    assert message.startswith(f"--set {path}={OLD_VALUES[path]}: unknown key {path}: ")
    assert f"is now {RENAMED_KEYS[path]}" in message
    (message,) = mistakes("light", values={path: OverrideSource(OLD_VALUES[path], "--old 1")})
    assert message.startswith(f"--old 1: unknown key {path}: ")
    assert f"is now {RENAMED_KEYS[path]}" in message


def test_a_renamed_section_and_a_renamed_key_in_it(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("seed: 1\ndistill:\n  steps: 100\n  codes: true\n")
    assert mistakes(file) == [
        f"{file}:2: unknown key distill: distill is now end_to_end; write the new name",
        f"{file}:4: unknown key distill.codes: distill.codes is now end_to_end.tune_codes; "
        "write the new name",
    ]
    file.write_text("distill: {steps: 100, codes: true}\n")
    (message,) = mistakes(file)
    assert "distill.codes is now end_to_end.tune_codes" in message
    (message,) = mistakes("light", overrides=["distill.steps=100"])
    assert "distill is now end_to_end" in message


def test_a_renamed_value_under_both_names(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("tuning:\n  start: compensated\n")
    (message,) = mistakes(file)
    assert "tuning.start is now tuning.init_rounding, and its value compensated is now gptq" in (
        message
    )
    file.write_text("tuning:\n  init_rounding: compensated\n")
    (message,) = mistakes(file)
    assert message.startswith(
        f"{file}:2: tuning.init_rounding: expected auto, nearest, gptq or by_block"
    )
    assert message.endswith("(compensated is now gptq)")


def test_other_unknown_keys_are_explained_as_ever() -> None:
    (message,) = mistakes("light", overrides=["tuning.stat=3"])
    assert "unknown key tuning.stat" in message
    assert "is now" not in message
    assert renamed_value("tuning.iters", "compensated") == renamed_value("tuning.start", 3) == ""
    assert describe_rename("tuning.init", "search") == (
        "tuning.init is now tuning.init_scale; write the new name"
    )
