from __future__ import annotations

import dataclasses
from pathlib import Path

from autoround.checkpoints.convert import Conversion
from autoround.report.conversion import conversion_lines

EXACT = Conversion(
    output_dir=Path("out"),
    method="gptq",
    formats=("auto_round", "auto_awq"),
    exact=14,
    shifted=0,
    lossy={},
    disk_bytes=12_345_678,
)


def test_a_conversion_that_keeps_everything() -> None:
    assert conversion_lines(EXACT) == [
        "gptq to auto_round, auto_awq: 14 of 14 layers equal bit for bit, 12.3 MB in out"
    ]


def test_what_moved_and_what_changed_has_a_line() -> None:
    changed = dataclasses.replace(EXACT, exact=12, shifted=3, lossy={"h.0.q": "5 weights"})
    first, *others = conversion_lines(changed)
    assert "12 of 13 layers" in first
    assert others == [
        "3 groups moved by a level, codes and zero point together",
        "changed: h.0.q: 5 weights",
    ]


def test_what_is_not_followed_has_a_line() -> None:
    lines = conversion_lines(dataclasses.replace(EXACT, notes=("keys are not followed",)))
    assert lines[1:] == ["note: keys are not followed"]
