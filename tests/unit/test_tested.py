"""Versions that a release was tested with, the files that say so, and what newer ones bring."""

from __future__ import annotations

import re
import sys
import warnings
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from autoround.cli._quiet import quiet_libraries
from autoround.tested import (
    NEWEST_TRANSFORMERS,
    UntestedVersionWarning,
    untested_transformers,
    warn_if_untested,
)

if sys.version_info >= (3, 11):
    import tomllib
else:  # pytest brings it there
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]


def pins(name: str) -> list[Requirement]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def floors() -> dict[str, str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = {}
    for requirement in map(Requirement, project["dependencies"]):
        (floor,) = requirement.specifier
        assert floor.operator == ">=", requirement
        found[canonicalize_name(requirement.name)] = floor.version
    return found


def test_every_runtime_dependency_has_a_floor_and_the_oldest_set_is_made_of_them() -> None:
    oldest = {}
    for pin in pins("constraints-oldest.txt"):
        (exact,) = pin.specifier
        assert exact.operator == "=="
        oldest[canonicalize_name(pin.name)] = exact.version
    assert len(floors()) > 10
    assert oldest == floors()


def test_the_newest_set_names_every_runtime_dependency_at_or_above_its_floor() -> None:
    newest = pins("constraints.txt")
    for name, floor in floors().items():
        own = [pin for pin in newest if canonicalize_name(pin.name) == name]
        assert own, f"constraints.txt lacks {name}"
        for pin in own:
            (exact,) = pin.specifier
            assert Requirement(f"x>={floor}").specifier.contains(exact.version), str(pin)


def test_the_newest_transformers_is_that_of_the_tested_set() -> None:
    tested = [str(pin.specifier) for pin in pins("constraints.txt") if pin.name == "transformers"]
    minors = [re.match(r"==(\d+)\.(\d+)", text) for text in tested]
    newest = max((int(found[1]), int(found[2])) for found in minors if found)
    assert f"{newest[0]}.{newest[1]}" == NEWEST_TRANSFORMERS


@pytest.mark.parametrize("version", ["5.9.0", "5.24.0", "5.24.7", "4.57.6", "unknown"])
def test_nothing_is_said_of_versions_that_are_no_newer(
    version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autoround.tested.NEWEST_TRANSFORMERS", "5.24")
    assert untested_transformers(version) == ""


@pytest.mark.parametrize("version", ["5.25.0", "5.25.0.dev0", "5.100.0", "6.0.0"])
def test_a_newer_one_is_named_with_the_way_back(
    version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autoround.tested.NEWEST_TRANSFORMERS", "5.24")
    text = untested_transformers(version)
    assert text.startswith(f"transformers {version} is newer than 5.24, ")
    assert text.endswith("pip install 'transformers<5.25'")


def test_python_hears_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoround.tested.NEWEST_TRANSFORMERS", "5.0")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        warn_if_untested()
        warn_if_untested()
    assert [warning.category for warning in caught] == [UntestedVersionWarning]


def test_a_command_says_it_once_in_a_line_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("autoround.tested.NEWEST_TRANSFORMERS", "5.0")
    with warnings.catch_warnings(), quiet_libraries():
        warn_if_untested()
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == f"warning: {untested_transformers()}\n"


def test_a_command_is_silent_with_the_tested_set(capsys: pytest.CaptureFixture[str]) -> None:
    if untested_transformers():
        pytest.skip("the installed transformers is newer than the tested one")
    with quiet_libraries():
        warn_if_untested()
    assert capsys.readouterr() == ("", "")
