"""Several runs side by side: rows of figures, for a terminal, as JSON, and as a page."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autoround.report.figures import MISSING, decimal, percent, size, span
from autoround.report.folder import RunFolder, mappings, number, output_folders, read_folder, text
from autoround.report.markup import Cell, Heading, Html, el, join, table
from autoround.report.page import document, format_name, model_name
from autoround.report.svg import Axes, Spot, points_svg


@dataclass(frozen=True)
class RunRow:
    """The figures of one run; None for those that its folder does not have.

    folder: as it was named. iters: tuning steps of a block. bytes: of the files of weights. bits:
    of a quantized weight, scales counted. scored_on: text, tokens and window of the scores.
    """

    folder: str
    model: str
    format: str
    scheme: str
    iters: int | None
    bytes: int
    bits: float | None
    perplexity: float | None
    reference_perplexity: float | None
    kl: float | None
    top1_agreement: float | None
    seconds: float | None
    peak_bytes: int | None
    scored_on: str


def read_rows(folders: Sequence[Path]) -> list[RunRow]:
    """Read the figures of runs; a folder of several formats is a row for each.

    Args:
        folders: outputs of runs.

    Raises:
        ModelError: one of them is none, or its files are damaged.
    """
    return [
        run_row(read_folder(part), str(part))
        for folder in folders
        for part in output_folders(folder)
    ]


def run_row(run: RunFolder, name: str) -> RunRow:
    """Return the figures of one run.

    Args:
        run: what its folder says of it.
        name: of the folder.
    """
    scores, iters = run.evaluation, number(run.plan, "tuning", "iters")
    peak = number(run.run, "peak_bytes")
    return RunRow(
        folder=name,
        model=model_name(run),
        format=format_name(run),
        scheme=_schemes(run),
        iters=None if iters is None else int(iters),
        bytes=run.weight_bytes,
        bits=number(run.run, "bits_per_weight"),
        perplexity=number(scores, "perplexity"),
        reference_perplexity=number(scores, "reference_perplexity"),
        kl=number(scores, "kl"),
        top1_agreement=number(scores, "top1_agreement"),
        seconds=number(run.run, "seconds"),
        peak_bytes=None if peak is None else int(peak),
        scored_on=_scored_on(run),
    )


def _schemes(run: RunFolder) -> str:
    """Name the bits that layers of the blocks have, such as ``W4`` or ``W3/W4/W8``."""
    layers = [x for b in mappings(run.plan.get("blocks")) for x in mappings(b.get("layers"))]
    bits = {int(b) for layer in layers if (b := number(layer, "scheme", "bits")) is not None}
    return "/".join(f"W{each}" for each in sorted(bits)) or MISSING


def _scored_on(run: RunFolder) -> str:
    tokens, seqlen = number(run.evaluation, "tokens"), number(run.evaluation, "seqlen")
    if tokens is None:
        return ""
    name = text(run.evaluation, "text") or "a text"
    return f"{name}, {tokens:.0f} tokens in windows of {decimal(seqlen, 0)}"


#: Columns of the tables: their heads, and whether they are numbers.
_COLUMNS = (
    *(("run", False), ("model", False), ("format", False), ("scheme", False), ("steps", True)),
    *(("size", True), ("bits", True), ("perplexity", True), ("KL", True), ("top-1", True)),
    *(("time", True), ("memory", True)),
)


def _words(row: RunRow) -> list[str]:
    return [
        *(row.folder, row.model, row.format, row.scheme),
        MISSING if row.iters is None else str(row.iters),
        size(row.bytes or None),
        decimal(row.bits, 2),
        decimal(row.perplexity, 3),
        decimal(row.kl, 4),
        percent(row.top1_agreement),
        span(row.seconds),
        size(row.peak_bytes),
    ]


def comparison_lines(rows: Sequence[RunRow]) -> list[str]:
    """Return runs as a table of text, and notes on what cannot be compared.

    Args:
        rows: the runs, in the order to show them.
    """
    cells = [[name for name, _ in _COLUMNS], *map(_words, rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(_COLUMNS))]
    lines = []
    for line in cells:
        padded = [
            word.rjust(width) if numbers else word.ljust(width)
            for word, width, (_, numbers) in zip(line, widths, _COLUMNS, strict=True)
        ]
        lines.append("  ".join(padded).rstrip())
    return lines + [f"note: {note}" for note in comparison_notes(rows)]


def comparison_values(rows: Sequence[RunRow]) -> list[dict[str, object]]:
    """Return runs as plain values for JSON; sizes are in bytes, times in seconds."""
    return [dataclasses.asdict(row) for row in rows]


def comparison_notes(rows: Sequence[RunRow]) -> list[str]:
    """Say what of some runs cannot be compared, and what is missing.

    Args:
        rows: the runs.
    """
    notes = []
    texts = list(dict.fromkeys(row.scored_on for row in rows if row.scored_on))
    if len(texts) > 1:
        notes.append(f"scores are of different texts: {'; '.join(texts)}")
    models = list(dict.fromkeys(row.model for row in rows))
    if len(models) > 1:
        notes.append(f"the runs are of different models: {', '.join(models)}")
    without = [row.folder for row in rows if row.perplexity is None]
    if without:
        notes.append(
            f"without scores: {', '.join(without)}; "
            "'autoround eval FOLDER --original MODEL --save' keeps them there"
        )
    return notes


def frontier(spots: Sequence[Spot]) -> list[Spot]:
    """Return the points that no other is both smaller and better than, from the smallest on.

    Args:
        spots: sizes along x, losses along y.
    """
    best: list[Spot] = []
    for spot in sorted(spots, key=lambda s: (s.x, s.y)):
        if not best or spot.y < best[-1].y:
            best.append(spot)
    return best


def comparison_page(rows: Sequence[RunRow]) -> str:
    """Return runs as a page: a table, and a drawing of size against quality.

    Args:
        rows: the runs, in the order to show them.
    """
    # Numbered, so that a point of the drawing is found in the table.
    names = [f"{i}. {row.folder}" for i, row in enumerate(rows, start=1)]
    body: list[list[Cell | str]] = [
        [name, *_cells(row)] for name, row in zip(names, rows, strict=True)
    ]
    headings = [Heading(name, numbers=numbers) for name, numbers in _COLUMNS]
    parts = [el("header", el("h1", "Quantized models compared"))]
    parts += [el("p", note[:1].upper() + note[1:] + ".") for note in comparison_notes(rows)]
    parts += [
        el(
            "section",
            el("h2", "Runs"),
            table("Figures of the runs", headings, body, kind="sortable"),
        ),
        _drawing(rows, "kl"),
        _drawing(rows, "perplexity"),
    ]
    return document("Quantized models compared", [part for part in parts if part])


def _cells(row: RunRow) -> list[Cell]:
    values = [
        *(None, None, None, row.iters, row.bytes, row.bits, row.perplexity, row.kl),
        *(row.top1_agreement, row.seconds, row.peak_bytes),
    ]
    words = _words(row)[1:]
    numbers = [number for _, number in _COLUMNS[1:]]
    return [
        # What is missing is sorted before all else.
        Cell(word, (-1.0 if value is None else value) if sorts else None)
        for word, value, sorts in zip(words, values, numbers, strict=True)
    ]


def _drawing(rows: Sequence[RunRow], figure: str) -> Html:
    """Draw size against KL or perplexity; nothing where fewer than two runs have it."""
    spots = []
    for i, row in enumerate(rows, start=1):
        value = row.kl if figure == "kl" else row.perplexity
        if value is not None and value > 0 and row.bytes:
            spots.append(Spot(f"{i}. {Path(row.folder).name}", row.bytes / 1e6, value))
    if len(spots) < 2:
        return Html("")
    name = "KL divergence, nats a token" if figure == "kl" else "perplexity"
    line = frontier(spots)
    said = (
        f"The line joins the runs that no other is both smaller and better than: "
        f"{', '.join(spot.name for spot in line)}."
    )
    listed = "; ".join(f"{s.name}: {s.x:.1f} MB, {s.y:.4g}" for s in spots)
    svg = points_svg(
        spots,
        line=line,
        axes=Axes("size of the weights, MB", name, log=True),
        title=f"Size against {name}",
        description=f"{said} {listed}.",
    )
    title = el("h2", f"Size against {name.partition(',')[0]}")
    return el("section", join([title, el("p", said), svg]))
