"""The mark of a folder that missed its gate."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from autoround.model.files.gate_mark import (
    MARK,
    GateFailedWarning,
    gate_failure,
    mark_folder,
    warn_if_failed,
)


def test_a_marked_folder_says_why_and_is_forgiven(tmp_path: Path) -> None:
    assert gate_failure(tmp_path) == ""
    mark_folder(tmp_path, ["KL is 2", "it repeats"])
    assert (
        gate_failure(tmp_path)
        == f"{tmp_path} missed the gate of its run ({MARK}): KL is 2; it repeats"
    )
    with pytest.warns(GateFailedWarning, match="KL is 2"):
        warn_if_failed(tmp_path)
    mark_folder(tmp_path, ())
    assert not (tmp_path / MARK).exists()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_failed(tmp_path)


def test_a_mark_of_anybodys_is_one_short_line(tmp_path: Path) -> None:
    (tmp_path / MARK).write_bytes(b"\xff a\nb " + b"x" * 10_000)
    text = gate_failure(tmp_path)
    assert "\n" not in text
    assert len(text) < len(str(tmp_path)) + 400
