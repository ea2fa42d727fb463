from __future__ import annotations

import json
from typing import Any

import pytest

from autoround.device import doctor
from autoround.device.doctor import Report

from .conftest import Command


def test_in_words(autoround: Command) -> None:
    done = autoround("doctor")
    assert (done.code, done.err) == (0, "")
    for text in ("torch ", "not here: ", "--device auto takes ", "agree with plain torch"):
        assert text in done.out


def test_as_json(autoround: Command) -> None:
    done = autoround("doctor", "--json")
    assert done.code == 0
    found: dict[str, Any] = json.loads(done.out)
    parts = {"versions", "system", "backends", "kernels", "auto", "untested", "problems"}
    assert set(found) == parts
    assert {"cpu", "null"} <= {backend["name"] for backend in found["backends"]}
    assert found["problems"] == []


def test_a_newer_transformers_than_tested_is_named(
    autoround: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autoround.tested.NEWEST_TRANSFORMERS", "5.0")
    done = autoround("doctor")
    assert (done.code, done.err) == (0, "")
    (line,) = [line for line in done.out.splitlines() if line.startswith("untested: ")]
    assert "newer than 5.0, the newest that this release of autoround was tested with" in line


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_problem_is_exit_code_6(
    options: tuple[str, ...], autoround: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "examine", lambda: Report({}, "here", (), (), ""))
    done = autoround("doctor", *options)
    assert done.code == 6
    assert "no backend can run here" in done.err
    assert done.out
