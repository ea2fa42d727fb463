"""The parts of a report about blocks and layers: losses, bits, errors."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from autoround.report.figures import MISSING, change, percent, scientific, size, span
from autoround.report.folder import RunFolder, number, text
from autoround.report.layer_rows import KEPT_BITS, LayerRow, layer_rows
from autoround.report.markup import Cell, Heading, Html, el, join, table
from autoround.report.svg import Series, losses_svg

#: Bits that have a colour of their own; the class of a cell of several is another.
_COLOURED = (2, 3, 4, 5, 6, 8, KEPT_BITS)
#: Rows of the table of layers from which on it scrolls in a box of its own.
_TALL = 24


def losses_part(run: RunFolder) -> Html:
    """Return the losses of the blocks before and after tuning: a drawing and a table.

    Args:
        run: with the figures of its blocks.
    """
    results = [r for r in run.results if text(r, "kind") != "non_block"]
    before = tuple(number(r, "loss_before") for r in results)
    after = tuple(number(r, "loss_after") for r in results)
    parts: list[Html] = []
    if any(value for value in (*before, *after)):
        pairs = [(b, a) for b, a in zip(before, after, strict=True) if b and a is not None]
        better = sum(a < b for b, a in pairs)
        said = (
            f"Tuning lowered the loss of {better} of {len(pairs)} blocks. "
            "The loss is the mean squared error of a block's output on the same fixed samples."
        )
        series = (Series("before tuning", before), Series("after tuning", after))
        parts = [
            el("p", said),
            losses_svg(*series, title="Loss by block before and after tuning", description=said),
        ]
    else:
        parts = [el("p", "The weights were rounded without tuning, so blocks have no losses.")]
    return join([*parts, _blocks_table(run.results)])


def _blocks_table(results: Sequence[Mapping[str, Any]]) -> Html:
    chose = any(text(result, "init_rounding") for result in results)
    headings = [
        Heading("Block"),
        *(Heading(name, numbers=True) for name in ("Loss before", "Loss after", "Change")),
        *([Heading("Initialised")] if chose else []),
        *(Heading(name, numbers=True) for name in ("Best step", "Time", "Peak memory so far")),
    ]
    rows = []
    for result in results:
        before, after = number(result, "loss_before"), number(result, "loss_after")
        steps, best = number(result, "steps"), number(result, "best_step")
        tuned = bool(steps) and best is not None and before is not None
        rows.append(
            [
                Cell(text(result, "name"), number(result, "index")),
                _figure(before, scientific(before)),
                _figure(after, scientific(after)),
                _figure(_ratio(before, after), change(before, after)),
                *([Cell(text(result, "init_rounding") or MISSING)] if chose else []),
                _figure(best, f"{best:.0f} of {steps:.0f}" if tuned else MISSING),
                _figure(number(result, "seconds"), span(number(result, "seconds"))),
                _figure(number(result, "peak_bytes"), size(number(result, "peak_bytes"))),
            ]
        )
    caption = "Blocks in the order they were done"
    return table(caption, headings, rows, kind="sortable", tall=len(rows) > _TALL)


def _ratio(before: float | None, after: float | None) -> float | None:
    return after / before if before and after is not None else None


def _figure(value: float | None, shown: str) -> Cell:
    # What is missing is sorted before all else.
    return Cell(shown, -1.0 if value is None else value)


def bits_part(run: RunFolder) -> Html:
    """Return the map of bits: a row for each block, a column for each role of a layer.

    Args:
        run: with its plan.
    """
    rows = layer_rows(run)
    inside = [row for row in rows if row.block is not None]
    roles = list(dict.fromkeys(row.role for row in inside))
    cells = {(row.block, row.role): row for row in inside}
    blocks = sorted({row.block for row in inside if row.block is not None})
    headings = [Heading("Block"), *(Heading(_breakable(role)) for role in roles)]
    body: list[list[Cell | str]] = [
        [str(b), *(_bits_cell(cells.get((b, role))) for role in roles)] for b in blocks
    ]
    legend = (
        "Bits of a weight by block and layer, without scales and zero points; 16 stands for a "
        "layer that stays as it is."
    )
    tall = len(body) > _TALL
    parts = [el("p", legend), table("Bits by block", headings, body, kind="bits", tall=tall)]
    outside = [row for row in rows if row.block is None]
    if outside:
        names = [Heading("Layer"), Heading("Bits", numbers=True), Heading("How it is held")]
        listed = [[row.role, row.bits_text, "; ".join(row.schemes)] for row in outside]
        parts.append(table("Layers outside the blocks", names, listed, tall=len(listed) > _TALL))
    return join(parts)


def _breakable(name: str) -> Html:
    """Return a name that may go over to the next line behind a dot or a low line."""
    words = re.split(r"(?<=[._])", name)
    return join(words, el("wbr"))


def _bits_cell(row: LayerRow | None) -> Cell:
    if row is None:
        return Cell("·", kind="none")
    coloured = len(row.bits) == 1 and row.bits[0] in _COLOURED
    return Cell(row.bits_text, kind=f"b{row.bits[0]}" if coloured else "bmix")


def errors_part(run: RunFolder) -> Html:
    """Return the table of layers with their errors; the page's script sorts it.

    Args:
        run: with its plan and the figures of its blocks.
    """
    rows = [row for row in layer_rows(run) if row.bits != (KEPT_BITS,)]
    known = [row for row in rows if row.error is not None]
    said = "This folder was written without the errors of its layers."
    if known:
        worst = max(known, key=lambda row: row.error or 0.0)
        said = (
            "The error is that of the weights, ||W − Wq|| / ||W||; of several matrices the largest "
            f"is shown. The largest of all has {_place(worst)} with {percent(worst.error, 2)}. "
            "GPTQ and tuning lower the error of outputs, and may raise that of weights: what "
            "counts is the loss of the block."
        )
    headings = [
        *(Heading("Layer"), Heading("Block", numbers=True), Heading("Shape")),
        *(Heading("Matrices", numbers=True), Heading("Bits", numbers=True)),
        *(Heading("How it is held"), Heading("Error", numbers=True)),
    ]
    body: list[list[Cell | str]] = [
        [
            row.role,
            Cell(MISSING if row.block is None else str(row.block), _order(row)),
            Cell(f"{row.shape[0]} × {row.shape[1]}", math.prod(row.shape), kind="whole"),
            Cell(str(row.count), row.count),
            Cell(row.bits_text, max(row.bits)),
            Cell("; ".join(row.schemes), kind="whole" * (len(row.schemes) == 1)),
            _figure(row.error, percent(row.error, 2)),
        ]
        for row in rows
    ]
    tall = len(body) > _TALL
    listed = table("Quantized layers", headings, body, kind="sortable", tall=tall)
    return join([el("p", said), listed])


def _order(row: LayerRow) -> float:
    return 1e9 if row.block is None else row.block


def _place(row: LayerRow) -> str:
    return row.role if row.block is None else f"{row.role} of block {row.block}"
