"""What an output folder says of its run, read with care: anybody may have written its files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoround.errors import ModelError
from autoround.export.run_file import RUN_FILE
from autoround.mixed_precision.budget import ALLOCATION_FILE

PLAN_FILE = "plan.json"
RECIPE_FILE = "recipe.yaml"
RESULTS_FILE = "report.jsonl"
CONFIG_FILE = "config.json"
EVALUATION_FILE = "evaluation.json"
GENERATIONS_FILE = "generations.json"
#: Endings of the files that hold weights.
WEIGHTS = (".safetensors", ".gguf")
#: A plan of a model with ten thousand experts in each of a hundred blocks takes a third of it.
MAX_BYTES = 1 << 30


@dataclass(frozen=True)
class RunFolder:
    """The files of an output folder as plain values; what is not there is empty.

    plan: what was done to every layer. results: figures of the blocks. recipe: its YAML. run: what
    was measured. allocation: of bits, where a budget asked for one. evaluation: scores on a text.
    generations: texts that were continued. weight_bytes: of the files that hold weights.
    quantization: what its config says of packed weights.
    """

    plan: Mapping[str, Any]
    results: tuple[Mapping[str, Any], ...] = ()
    recipe: str = ""
    run: Mapping[str, Any] = field(default_factory=dict)
    allocation: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    generations: tuple[Mapping[str, Any], ...] = ()
    weight_bytes: int = 0
    quantization: Mapping[str, Any] = field(default_factory=dict)


def read_folder(folder: Path) -> RunFolder:
    """Read what an output folder says of its run.

    Args:
        folder: of one format.

    Raises:
        ModelError: it has no plan, or a file of it cannot be read.
    """
    path = folder / PLAN_FILE
    if not path.is_file():
        raise ModelError(
            f"{folder} has no {PLAN_FILE}: name a folder that 'autoround quantize' wrote"
        )
    plan = _read_json(path)
    if not isinstance(plan, dict) or not isinstance(plan.get("blocks"), list):
        raise ModelError(f"{path} is damaged: it is no plan of a run")
    return RunFolder(
        plan,
        tuple(mappings(_read_lines(folder / RESULTS_FILE))),
        _read_text(folder / RECIPE_FILE),
        mapping(_read_json(folder / RUN_FILE)),
        mapping(_read_json(folder / ALLOCATION_FILE)),
        mapping(_read_json(folder / EVALUATION_FILE)),
        tuple(mappings(_read_json(folder / GENERATIONS_FILE))),
        sum(p.stat().st_size for p in folder.iterdir() if p.suffix in WEIGHTS and p.is_file()),
        mapping(mapping(_read_json(folder / CONFIG_FILE)).get("quantization_config")),
    )


def output_folders(folder: Path) -> list[Path]:
    """Return the folders of the formats that a run wrote: the one itself, or those in it.

    Args:
        folder: of a run's output, or a file in it.

    Raises:
        ModelError: it is no output of a run.
    """
    place = folder.parent if folder.is_file() else folder
    if (place / PLAN_FILE).is_file():
        return [place]
    inside = sorted(path.parent for path in place.glob(f"*/{PLAN_FILE}"))
    if not inside:
        raise ModelError(
            f"{place} has no {PLAN_FILE}: name a folder that 'autoround quantize' wrote"
        )
    return inside


def _read_text(path: Path) -> str:
    """Return the text of a file; empty where it is not there.

    Raises:
        ModelError: it cannot be read, or is too large to be one of these.
    """
    try:
        if not path.is_file():
            return ""
        if path.stat().st_size > MAX_BYTES:
            raise ModelError(f"{path} is larger than {MAX_BYTES >> 20} MiB: no run wrote it")
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error


def _read_json(path: Path) -> object:
    text = _read_text(path)
    return _parse(text, path) if text else None


def _read_lines(path: Path) -> list[object]:
    return [_parse(line, path) for line in _read_text(path).splitlines()]


def _parse(text: str, path: Path) -> object:
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is damaged: {error}") from error
    return value


def mapping(value: object) -> Mapping[str, Any]:
    """Return a value that is a mapping; an empty one in place of any other."""
    return value if isinstance(value, dict) else {}


def mappings(value: object) -> list[Mapping[str, Any]]:
    """Return the mappings among the items of a list; none of any other value."""
    return [item for item in sequence(value) if isinstance(item, dict)]


def sequence(value: object) -> Sequence[Any]:
    """Return a value that is a list; an empty one in place of any other."""
    return value if isinstance(value, list) else []


def text(values: Mapping[str, Any], key: str) -> str:
    """Return a text of a mapping; an empty one where it has none."""
    value = values.get(key)
    return value if isinstance(value, str) else ""


def number(values: Mapping[str, Any], *path: str) -> float | None:
    """Return a finite number in nested mappings; None where there is none.

    Args:
        values: the outermost mapping.
        path: the keys, from the outermost on.
    """
    value: object = values
    for key in path:
        value = mapping(value).get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        finite = float(value)
    except OverflowError:
        return None
    return finite if math.isfinite(finite) else None
