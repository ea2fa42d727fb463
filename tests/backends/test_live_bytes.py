"""What a plan says of a device's memory is what a run takes: tools/bench/live_bytes.py measures it.

Every tensor of the toy device is counted from when its memory is taken until it is given back.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ..scripts import run_script
from ..toy_device import WHY_NOT

ROOT = Path(__file__).parents[2]
BENCH = ROOT / "tools" / "bench"
SCRIPT = """
import json, sys
sys.path[:0] = [{bench!r}, {root!r}]
import live, live_bytes
from tests import toy_device
held = toy_device.register(), live.register_kernels(toy_device)
print(json.dumps(vars(live_bytes.measure({case}))))
"""
#: A block of half a million weights, one sample at a time.
SMALL = """live_bytes.Case(
    4, 32, 4, ("tuning.low_memory=true",), blocks=1,
    widths={"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 8,
            "num_key_value_heads": 2})"""
#: The larger cases, and how far their plan may be from what was live.
CASES = {
    "weights": (0.9, 1.1),
    "activations": (0.9, 1.1),
    "low memory": (0.9, 1.1),
    "2 bits, GPTQ": (0.9, 1.1),
    "mixture": (0.9, 1.15),
    "mixture, low memory": (0.9, 1.1),
    "head": (0.9, 1.1),
}


def measure(case: str) -> dict[str, Any]:
    """Measure in a process of its own: what torch is told of the device stays for the process."""
    code = SCRIPT.format(bench=str(BENCH), root=str(ROOT), case=case)
    figures: dict[str, Any] = run_script("-c", code, timeout=1800, OMP_NUM_THREADS="1")
    return figures


@pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)
def test_a_small_run_in_little_memory_takes_what_was_planned() -> None:
    figures = measure(SMALL)
    assert 0.85 < figures["planned"] / figures["peak"] < 1.15
    # Initialising roundings and tuning are both near the peak, and both planned as they are.
    by_part, planned = figures["by_part"], figures["planned_by_phase"]
    tuned = planned["a block is tuned"] / by_part["steps"]
    assert 0.8 < tuned < 1.2
    started = planned["scales and roundings are initialised"]
    assert 0.8 < started / max(by_part["columns"], by_part["factor"]) < 1.2


@pytest.mark.slow
@pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)
@pytest.mark.parametrize("case", list(CASES))
def test_runs_take_what_was_planned(case: str) -> None:
    figures = measure(f"live_bytes.CASES[{case!r}]")
    least, most = CASES[case]
    assert least < figures["planned"] / figures["peak"] < most
    # Low memory records nothing; all else is recorded.
    assert figures["refusals"] == []
