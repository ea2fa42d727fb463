"""The outcome of a run as plain values: what ``quantize --json`` prints."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from autoround.events import Judged
from autoround.types import RunResult


def result_values(result: RunResult) -> dict[str, Any]:
    """Return the outcome of a run as values of JSON; sizes are in bytes, times in seconds.

    Args:
        result: of a run that is complete.
    """
    plan = result.plan
    return {
        "output_dir": str(result.output_dir),
        "model": plan.model,
        "architecture": plan.architecture,
        "device": plan.device,
        "formats": [
            {"format": x.format, "packing": x.packing, "folder": str(result.output_dir / x.folder)}
            for x in plan.all_outputs
        ],
        "blocks": sum(block.kind == "block" for block in result.blocks),
        "seconds": result.seconds,
        "tuning_seconds": result.tuning_seconds,
        "peak_bytes": result.peak_bytes,
        "disk_bytes": result.disk_bytes,
        "bits_per_weight": result.bits_per_weight,
        "evaluation": None if result.evaluation is None else dataclasses.asdict(result.evaluation),
    }


def judged_values(judged: Sequence[Judged]) -> list[dict[str, Any]]:
    """Return what became of a gate as values of JSON, for each format.

    Args:
        judged: the verdicts.
    """
    return [{**dataclasses.asdict(verdict), "passed": not verdict.failures} for verdict in judged]
