"""What is kept beside a quantized model after its run: its report, scores on a text, texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from autoround.errors import UsageError
from autoround.evaluate.generate import Difference
from autoround.evaluate.tasks.scores import TaskScore, question_values, score_values
from autoround.model.files.origin import Origin
from autoround.report.folder import (
    EVALUATION_FILE,
    GENERATIONS_FILE,
    PLAN_FILE,
    mappings,
    read_folder,
)
from autoround.report.model_card import write_card
from autoround.report.page import REPORT_FILE, report_page
from autoround.storage.durable import write_text
from autoround.storage.json_text import to_json
from autoround.types import EvalResult

#: What the text is called that is scored where none is named.
EMBEDDED_TEXT = "embedded text that calibration never sees"


def text_name(text: Path | None) -> str:
    """Return what a text that is scored is called.

    Args:
        text: its file; None for the embedded text.
    """
    return EMBEDDED_TEXT if text is None else str(text)


def write_report(folder: Path) -> Path:
    """Write the report of an output folder, in place of an earlier one.

    Args:
        folder: of one format.

    Returns:
        The file.

    Raises:
        ModelError: the folder is no output of a run, or its files are damaged.
        OutputError: the report cannot be written.
    """
    path = folder / REPORT_FILE
    write_text(path, report_page(read_folder(folder)))
    return path


def describe_folder(folder: Path, origin: Origin) -> None:
    """Write what describes a model to people: its report, and its card.

    Args:
        folder: of one format, with all its other files.
        origin: of the model.

    Raises:
        ModelError: the folder is no output of a run.
        OutputError: one of them cannot be written.
    """
    write_report(folder)
    write_card(folder, origin)


def write_again(folder: Path) -> Iterator[Path]:
    """Write the report and the card of an output folder again; yields what is written.

    Args:
        folder: of one format.

    Raises:
        ModelError: the folder is no output of a run, or its files are damaged.
        OutputError: one of them cannot be written.
    """
    yield write_report(folder)
    card = write_card(folder)
    if card is not None:
        yield card


def check_saves(model: str | Path) -> Path:
    """Return the folder that scores of a model are kept in.

    Args:
        model: that is scored.

    Raises:
        UsageError: it is no output of a run.
    """
    folder = Path(model)
    if not (folder / PLAN_FILE).is_file():
        raise UsageError(
            f"--save keeps scores beside a model that 'autoround quantize' wrote, and {model} has "
            f"no {PLAN_FILE}: name such a folder, or leave --save out"
        )
    return folder


def save_evaluation(
    folder: Path,
    scores: EvalResult,
    *,
    text: str,
    original: str | None,
    seqlen: int,
    gate: Mapping[str, Any] | None = None,
) -> None:
    """Keep scores in an output folder, and write its report again.

    Args:
        folder: of one format; one that no run wrote is left alone.
        scores: of the model that it holds.
        text: name of what was scored, as text_name has it.
        original: what the model was compared with; None for nothing.
        seqlen: tokens of a window.
        gate: bounds that the scores were held to, and whether they passed; None without a gate.

    Raises:
        OutputError: one of the files cannot be written.
    """
    if not (folder / PLAN_FILE).is_file():
        return
    values = {
        **dataclasses.asdict(scores),
        "text": text,
        "original": original,
        "seqlen": seqlen,
    }
    if gate is not None:
        values["gate"] = dict(gate)
    tasks = mappings(read_folder(folder).evaluation.get("tasks"))
    if tasks:
        values["tasks"] = tasks
    write_text(folder / EVALUATION_FILE, to_json(values, indent=1) + "\n")
    _write_all(folder)


def save_tasks(folder: Path, scores: Sequence[TaskScore], *, original: str | None) -> None:
    """Keep figures of tasks in an output folder, and write its report again.

    Those of other tasks stay, and so do the scores on a text.

    Args:
        folder: of one format; one that no run wrote is left alone.
        scores: of the model that it holds.
        original: what the model was compared with; None for nothing.

    Raises:
        OutputError: one of the files cannot be written.
    """
    if not (folder / PLAN_FILE).is_file():
        return
    values = dict(read_folder(folder).evaluation)
    measured = {score.task for score in scores}
    kept = [x for x in mappings(values.get("tasks")) if x.get("task") not in measured]
    made = [score_values(score) | {"compared_with": original} for score in scores]
    values["tasks"] = [*kept, *made]
    write_text(folder / EVALUATION_FILE, to_json(values, indent=1) + "\n")
    _write_all(folder)


def save_questions(path: Path, scores: Sequence[TaskScore]) -> None:
    """Write the figures of each question, one JSON object a line.

    Args:
        path: of the file; one that is there is replaced.
        scores: of tasks.

    Raises:
        OutputError: the file cannot be written.
    """
    rows = [row for score in scores for row in question_values(score)]
    write_text(path, "".join(to_json(row) + "\n" for row in rows))


def _write_all(folder: Path) -> None:
    for _ in write_again(folder):
        pass


def save_generation(
    folder: Path,
    prompt: str,
    text: str,
    *,
    original: str | None = None,
    difference: Difference | None = None,
) -> None:
    """Keep a text that a quantized model generated, and write the report again.

    Args:
        folder: of one format; one that no run wrote is left alone.
        prompt: what was continued.
        text: the continuation.
        original: that of the unquantized model; None where it was not asked.
        difference: of the two; None where they are the same.

    Raises:
        OutputError: one of the files cannot be written.
    """
    if not (folder / PLAN_FILE).is_file():
        return
    values: dict[str, Any] = {"prompt": prompt, "quantized": text}
    if original is not None:
        values["original"] = original
        values["difference"] = None if difference is None else dataclasses.asdict(difference)
    kept = [values]
    write_text(folder / GENERATIONS_FILE, to_json(kept, indent=1) + "\n")
    write_report(folder)
