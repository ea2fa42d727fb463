from __future__ import annotations

import json
from pathlib import Path

import pytest

from autoround.errors import UsageError
from autoround.report.saved import (
    EMBEDDED_TEXT,
    check_saves,
    save_evaluation,
    save_generation,
    write_report,
)
from autoround.types import EvalResult

from ._runs import run_folder, write_folder


def test_a_report_is_written_again_with_the_same_bytes(tmp_path: Path) -> None:
    out = write_folder(tmp_path / "out")
    before = {path.name for path in out.iterdir()}
    first = write_report(out).read_bytes()
    assert write_report(out).read_bytes() == first
    assert {path.name for path in out.iterdir()} == before | {"report.html"}


def test_scores_and_texts_come_into_the_report(tmp_path: Path) -> None:
    out = write_folder(tmp_path / "out", run_folder(evaluation={}))
    assert "Not evaluated." in write_report(out).read_text(encoding="utf-8")
    scores = EvalResult(11.5, 99, 10.0, 0.25, 0.5)
    save_evaluation(out, scores, text=EMBEDDED_TEXT, original="my/model", seqlen=64)
    save_generation(out, "say", "this")
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "10.000 → 11.500" in page
    assert "Prompt: say" in page
    assert json.loads((out / "evaluation.json").read_text()) == {
        **{"perplexity": 11.5, "tokens": 99, "reference_perplexity": 10.0, "kl": 0.25},
        **{"top1_agreement": 0.5, "text": "embedded text that calibration never sees"},
        **{"original": "my/model", "seqlen": 64},
    }


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    save_evaluation(tmp_path, EvalResult(1.0, 2), text=EMBEDDED_TEXT, original=None, seqlen=2)
    save_generation(tmp_path, "say", "this")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UsageError, match="leave --save out"):
        check_saves(tmp_path)
    assert check_saves(write_folder(tmp_path / "out")) == tmp_path / "out"
