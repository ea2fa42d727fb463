from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from autoround.errors import ModelError
from autoround.report.compare import (
    comparison_lines,
    comparison_page,
    comparison_values,
    frontier,
    read_rows,
    run_row,
)
from autoround.report.svg import Spot

from ._runs import EVALUATION, HOSTILE, run_folder, write_folder
from .test_page import read


def row(name: str, size: int, kl: float | None, **changes: Any) -> Any:
    scores = {**EVALUATION, "kl": kl} if kl is not None else {}
    run = run_folder(weight_bytes=size, evaluation=scores)
    return dataclasses.replace(run_row(run, name), **changes)


def test_runs_are_read_from_their_folders(tmp_path: Path) -> None:
    write_folder(tmp_path / "one")
    write_folder(tmp_path / "both" / "a")
    write_folder(tmp_path / "both" / "b")
    rows = read_rows([tmp_path / "one", tmp_path / "both"])
    assert [Path(r.folder).name for r in rows] == ["one", "a", "b"]
    first = rows[0]
    assert (first.model, first.format, first.scheme) == ("model", "auto_round", "W4")
    assert (first.bytes, first.bits, first.kl, first.seconds) == (1000, 4.125, 0.05, 61.5)
    with pytest.raises(ModelError, match=r"none has no plan\.json"):
        read_rows([tmp_path / "none"])


def test_a_table_for_a_terminal() -> None:
    lines = comparison_lines([row("small", 10**7, 0.2), row("large one", 3 * 10**9, 0.1)])
    assert lines[0].split() == [
        *("run", "model", "format", "scheme", "steps", "size", "bits", "perplexity", "KL"),
        *("top-1", "time", "memory"),
    ]
    assert "10.0 MB" in lines[1]
    assert "3.00 GB" in lines[2]
    assert len({line.index("auto_round") for line in lines[1:]}) == 1
    assert len(lines) == 3


def test_json_has_all_figures() -> None:
    values = json.loads(json.dumps(comparison_values([row("a", 5, 0.2)])))
    assert values[0]["bytes"] == 5
    assert values[0]["perplexity"] == 11.0
    assert values[0]["scored_on"] == "book.txt, 511 tokens in windows of 128"


def test_what_cannot_be_compared_is_said() -> None:
    rows = [
        row("a", 1, 0.1),
        row("b", 1, 0.1, scored_on="another text"),
        row("c", 1, None, model="other"),
    ]
    notes = [line for line in comparison_lines(rows) if line.startswith("note: ")]
    assert "scores are of different texts" in notes[0]
    assert "different models: model, other" in notes[1]
    assert "without scores: c;" in notes[2]


def test_the_frontier_is_what_nothing_beats() -> None:
    spots = [
        Spot("d", 4, 1),
        Spot("a", 1, 9),
        Spot("b", 2, 3),
        Spot("worse", 3, 3),
        Spot("c", 3, 2),
    ]
    assert [spot.name for spot in frontier(spots)] == ["a", "b", "c", "d"]
    assert frontier([]) == []


def test_a_page_draws_runs_that_have_scores() -> None:
    rows = [row("a", 10**6, 0.2), row("b", 2 * 10**6, 0.1), row("c", 10**6, None)]
    reader = read(comparison_page(rows))
    drawings = [attrs for tag, attrs in reader.elements if tag == "svg"]
    assert len(drawings) == 2
    assert "1. a: 1.0 MB, 0.2; 2. b: 2.0 MB, 0.1." in str(drawings[0]["aria-label"])
    assert "3. c model auto_round" in reader.text
    assert not [t for t, _ in read(comparison_page(rows[1:])).elements if t == "svg"]


def test_hostile_names_do_nothing() -> None:
    page = comparison_page([row(HOSTILE, 10**6, 0.2, model=HOSTILE), row("b", 10**6, 0.1)])
    read(page)
    assert page.count("<script>") == 1
    assert "<img" not in page
    assert not set(page) & set("\x1b\x00\u202e")
