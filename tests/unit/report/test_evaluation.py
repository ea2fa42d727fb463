from __future__ import annotations

import json
from pathlib import Path

import pytest

from autoround.report.evaluation import evaluation_lines, prediction_lines
from autoround.types import EvalResult

ALONE = EvalResult(perplexity=12.3456, tokens=93)
COMPARED = EvalResult(11.0, 93, reference_perplexity=10.0, kl=0.08, top1_agreement=0.875)


def test_a_model_alone() -> None:
    assert evaluation_lines(ALONE) == ["perplexity 12.346 over 93 tokens"]


def test_a_model_beside_its_original() -> None:
    assert evaluation_lines(COMPARED) == [
        "perplexity of the original   10.000",
        "perplexity of the quantized  11.000  (+10.0 %)",
        "KL divergence                0.0800 nats per token",
        "top-1 agreement              87.5 %",
        "tokens                       93",
    ]


def test_a_prediction_stands_beside_what_was_measured(tmp_path: Path) -> None:
    (tmp_path / "allocation.json").write_text(json.dumps({"predicted_kl": 0.1}))
    assert prediction_lines(tmp_path, COMPARED) == [
        "predicted KL                 0.1000 nats per token for searched scales; the measured one "
        "is 0.80 times that"
    ]


@pytest.mark.parametrize("result", [ALONE, COMPARED])
def test_no_prediction_without_a_budget(result: EvalResult, tmp_path: Path) -> None:
    assert prediction_lines(tmp_path, result) == []


def test_no_prediction_without_the_original(tmp_path: Path) -> None:
    (tmp_path / "allocation.json").write_text(json.dumps({"predicted_kl": 0.1}))
    assert prediction_lines(tmp_path, ALONE) == []
