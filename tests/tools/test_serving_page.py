"""The page about serving is the one that the table of engines gives."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from autoround.planning.serving.table import Conditions, engine_table

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("serving_page", ROOT / "tools/serving_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date(tool: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main(["--check"]) == 0, "run tools/serving_page.py"
    assert capsys.readouterr().out == ""


def test_another_page_is_found_and_written_anew(
    tool: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(tool, "TARGET", tmp_path / "serving.md")
    assert tool.main(["--check"]) == 1
    assert "serving.md is not what the table gives" in capsys.readouterr().out
    assert tool.main([]) == 0
    assert tool.main(["--check"]) == 0
    (tmp_path / "serving.md").write_text("another")
    assert tool.main(["--check"]) == 1


def test_the_page_tells_all_that_the_table_has(tool: ModuleType) -> None:
    text = tool.page()
    for engine in engine_table().values():
        assert f"## {engine.title}\n" in text
        for served in engine.reads:
            assert served.command in text
        for rule in engine.rules:
            assert rule.says in text
    assert "source, not run" in text


def test_conditions_are_told_in_words(tool: ModuleType) -> None:
    when = Conditions.model_validate(
        {
            "bits": [2, 3],
            "sym": False,
            "experts": True,
            "group_sizes": [32],
            "other_group_sizes": [-1, 64],
            "kinds": ["q4_k"],
            "inputs_not_multiple_of": 128,
        }
    )
    assert tool.describe_conditions(when) == (
        "2 or 3 bits, asymmetric, experts, groups of 32, groups other than -1 or 64, block types "
        "`q4_k`, inputs no multiple of 128"
    )
    # A condition that has no words would leave a rule that seems to be about more than it is.
    for name in Conditions.model_fields:
        tries = [True, 7, [7], ["x"]]
        said = [words for x in tries if (words := _said(tool, name, x))]
        assert said, name


def _said(tool: ModuleType, name: str, value: object) -> str:
    try:
        when = Conditions.model_validate({name: value})
    except ValueError:
        return ""
    return str(tool.describe_conditions(when))
