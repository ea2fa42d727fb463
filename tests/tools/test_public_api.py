"""The list of what is public is that of the code: a change of it is made knowingly."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

import autoround
from autoround.recipe.schema import field_paths
from tools import public_api

PAGE = public_api.PAGE.read_text(encoding="utf-8")


def test_the_list_is_what_the_code_has() -> None:
    # Changed on purpose? python -m tools.public_api, and a line in the changelog.
    assert public_api.public_api() == PAGE


def test_all_names_keys_and_codes_are_in_it() -> None:
    lines = PAGE.splitlines()
    for name in autoround.__all__:
        assert [line for line in lines if line.startswith(f"autoround.{name}")], name
    keys = {line.partition(" = ")[0] for line in lines}
    assert {path for path in field_paths() if "[]" not in path} <= keys
    assert "autoround.errors.GateError 10" in lines
    assert "autoround quantize --resume" in lines


def test_signatures_are_written_as_in_the_code() -> None:
    def function(a: int, b: str = "x", *, sink: object = len, call: object = _helper) -> None: ...

    assert public_api._signature(function).startswith("(a: int, b: str = 'x', *, sink: object = ")
    assert public_api._signature(function).endswith("call: object = _helper)")

    @dataclass
    class Thing:
        size: int
        call: object = _helper

        def grow(self, by: int = 1) -> int:
            return by

    assert list(public_api._methods("T", Thing)) == ["T.grow(by: int = 1) -> int"]
    assert list(public_api._fields("T", Thing)) == ["T.size: int", "T.call: object"]


def _helper() -> None: ...


def test_a_list_that_differs_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "list.txt"
    page.write_text(PAGE.replace("seed = 42", "seed = 43"), encoding="utf-8")
    monkeypatch.setattr(public_api, "PAGE", page)
    monkeypatch.setattr(public_api, "public_api", lambda: PAGE)
    assert public_api.main(["--check"]) == 1
    printed = capsys.readouterr().out
    assert "-seed = 43" in printed
    assert "+seed = 42" in printed
    assert public_api.main([]) == 0
    assert public_api.main(["--check"]) == 0
