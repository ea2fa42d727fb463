from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from autoround.checkpoints.conversion_plan import (
    ConversionPlan,
    FormatOutlook,
    PackedPart,
    Refusal,
)
from autoround.checkpoints.convert import Conversion
from autoround.report.conversion import (
    conversion_lines,
    conversion_plan_lines,
    conversion_plan_values,
)
from autoround.storage.json_text import to_json

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


PLAN = ConversionPlan(
    model="some-model",
    method="gptq",
    parts=(PackedPart("W4 g32 sym", "gptq", 14, 2_000_000, 1_100_000),),
    kept=5,
    disk_bytes=3_000_000,
    formats=(
        FormatOutlook("mlx", "mlx", 3_200_000, unknown=("whether it rains",)),
        FormatOutlook("auto_awq", "awq", None, (Refusal("layer a: no", "a"), Refusal("b: no"))),
    ),
    notes=("keys are not followed",),
)


def test_a_conversion_to_come_shows_layers_packing_sizes_and_refusals() -> None:
    assert conversion_plan_lines(PLAN) == [
        "some-model: quantization: gptq, 3.00 MB",
        "  W4 g32 sym, packing gptq: 14 layers, 2.00 M weights, 1.10 MB",
        "  kept as they are: 5 tensors",
        "to mlx: 14 layers, packing gptq -> mlx, 3.00 -> 3.20 MB",
        "  known once the codes are read: whether it rains",
        "to auto_awq: refused",
        "  layer a: no",
        "  b: no",
        "note: keys are not followed",
    ]


def test_of_many_refusals_the_first_are_shown_and_json_has_all() -> None:
    refusals = tuple(Refusal(f"layer {i}: no", str(i)) for i in range(30))
    plan = dataclasses.replace(PLAN, formats=(FormatOutlook("auto_awq", "awq", None, refusals),))
    lines = conversion_plan_lines(plan)
    assert sum("no" in line.split() for line in lines) == 20
    assert "  and 10 more" in lines
    values = json.loads(to_json(conversion_plan_values(plan)))
    assert values["refused"] is True
    assert len(values["formats"][0]["refusals"]) == 30
    assert values["parts"][0]["layers"] == 14
