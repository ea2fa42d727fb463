"""Output folders to report on, as plain values."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from autoround.report.folder import RunFolder
from autoround.resume.policy import plan_record
from autoround.storage.json_text import to_json
from autoround.types import BlockResult

from . import _values as values

#: Whatever a browser, a terminal or a reader of XML could be led astray by.
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&\x1b[31m\x00\u202e]]>"


def results() -> list[BlockResult]:
    """Return the figures of the blocks of ``_values``."""
    return [
        BlockResult(0, "h.0", 4e-3, 1e-3, 2.0, 20, 7, 10**9, layer_errors={"h.0.q": 0.05}),
        BlockResult(1, "h.1", 9e-3, 9e-3, 3.0, 20, 0, 10**9, layer_errors={"h.1.q": 0.25}),
    ]


def run_values() -> dict[str, Any]:
    """Return what such a run measured."""
    return {
        "finished": "2026-01-02T03:04:05+00:00",
        "output": {**dataclasses.asdict(values.plan().outputs[0]), "types": []},
        "formats": 1,
        "method": "SignRound, 20 steps",
        "resumed": False,
        "in_memory": False,
        "own_data": False,
        "seconds": 61.5,
        "peak_bytes": 10**9,
        "bits_per_weight": 4.125,
        "predicted_bytes": 25_000_000,
        "phases": [
            {"name": "prepare", "seconds": 1.5, "peak_bytes": 5 * 10**8},
            {"name": "tune", "seconds": 60.0, "peak_bytes": 10**9},
        ],
        "estimate": dataclasses.asdict(values.ESTIMATE),
        "warnings": ["something slow"],
        "versions": {"autoround": "1.2.3", "torch": "9.9"},
        "system": "Linux x86_64",
    }


EVALUATION = {
    **{"perplexity": 11.0, "tokens": 511, "reference_perplexity": 10.0, "kl": 0.05},
    **{"top1_agreement": 0.9, "text": "book.txt", "original": "my/model", "seqlen": 128},
}


def run_folder(**changes: Any) -> RunFolder:
    """Return a run with scores, changed as told."""
    plan = json.loads(to_json(plan_record(values.plan(notes=("a note",)))))
    lines = tuple(json.loads(to_json(dataclasses.asdict(each))) for each in results())
    run = RunFolder(
        plan, lines, "scheme:\n  bits: 4\n", run_values(), {}, EVALUATION, (), 26_000_000
    )
    return dataclasses.replace(run, **changes)


def write_folder(folder: Path, run: RunFolder | None = None) -> Path:
    """Write a run as the files of an output folder."""
    run = run_folder() if run is None else run
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text(json.dumps(run.plan))
    (folder / "report.jsonl").write_text("".join(json.dumps(r) + "\n" for r in run.results))
    (folder / "recipe.yaml").write_text(run.recipe)
    (folder / "run.json").write_text(json.dumps(run.run))
    if run.evaluation:
        (folder / "evaluation.json").write_text(json.dumps(run.evaluation))
    (folder / "model.safetensors").write_bytes(b"\0" * 1000)
    return folder


def poisoned(value: Any) -> Any:
    """Return a value with every text in it, names of keys too, followed by a hostile one."""
    if isinstance(value, dict):
        return {key: poisoned(item) for key, item in value.items()}
    if isinstance(value, list):
        return [poisoned(item) for item in value]
    return value + HOSTILE if isinstance(value, str) else value


def mangled(value: Any, replacement: Any, path: tuple[str, ...]) -> Any:
    """Return nested mappings with the value at a path replaced."""
    if not path:
        return replacement
    return {**value, path[0]: mangled(value.get(path[0], {}), replacement, path[1:])}
