from __future__ import annotations

from pathlib import Path

from autoround.events import Judged
from autoround.report.result import judged_values, result_values
from autoround.storage.json_text import to_json
from autoround.types import EvalResult, RunResult

from ._values import plan, result


def test_a_result_is_plain_values() -> None:
    run = RunResult(
        Path("out"), plan(), (result(0), result(1)), 9.0, 8.0, 7, 6, 4.5, EvalResult(1.5, 2)
    )
    values = result_values(run)
    to_json(values)
    assert values["output_dir"] == "out"
    assert values["blocks"] == 2
    assert values["formats"] == [
        {"format": "auto_round", "packing": "auto_round:auto_gptq", "folder": "out"}
    ]
    assert values["evaluation"]["perplexity"] == 1.5


def test_a_verdict_says_whether_it_passes() -> None:
    values = judged_values([Judged("a", "kl<=1", None), Judged("b", "kl<=1", None, ("NaN",))])
    assert [one["passed"] for one in values] == [True, False]
