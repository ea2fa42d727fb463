"""Which outputs count as complete when a run is to go on.

Tests: autoround/resume/policy.py
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from autoround.errors import OutputError

from .test_policy import model, quantize

__all__ = ["model"]


@pytest.mark.parametrize("change", [lambda t: t[: len(t) // 2], lambda t: "[]\n" * 9])
def test_an_output_whose_report_is_damaged_is_not_complete(
    change: Callable[[str], str], model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    quantize(model, out)
    report = out / "report.jsonl"
    report.write_text(change(report.read_text()))
    with pytest.raises(OutputError, match="not empty"):
        quantize(model, out, resume=True)
