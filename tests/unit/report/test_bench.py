from __future__ import annotations

from autoround.evaluate.bench import Rates
from autoround.report.bench import rate_lines

OURS = Rates("out", "bfloat16", "native (14)", 300.0, 60.0, 25_000_000, 90_000_000)
ORIGINAL = Rates("model", "float32", "unquantized", 200.0, 20.0, 100_000_000, 190_000_000)


def test_a_model_alone() -> None:
    assert rate_lines([OURS]) == [
        "out: bfloat16, native (14)",
        "  prefill  300.0 tokens/s",
        "  decode   60.0 tokens/s",
        "  weights  25.0 MB in memory, peak so far 90.0 MB",
    ]


def test_a_model_beside_its_original() -> None:
    lines = rate_lines([OURS, ORIGINAL])
    assert len(lines) == 9
    assert lines[-1] == "against the original: prefill 1.50 x, decode 3.00 x, weights 0.25 x"
