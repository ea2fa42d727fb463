"""HTML whose texts are escaped by construction.

Names of tensors, classes and files are anybody's text. Here every text that is no :class:`Html`
loses its meaning to a browser, and characters that nobody sees are written as escapes, as
:mod:`autoround.report.terminal` does for terminals.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from autoround.report.terminal import printable

_VOID = frozenset({"meta", "wbr", "rect", "circle", "path", "polyline", "line"})


class Html(str):
    """A text that is markup already; only functions of this package make it."""

    __slots__ = ()


def escape(text: str) -> Html:
    """Return a text as markup that shows it.

    Args:
        text: of any origin; markup comes back as it is.
    """
    if isinstance(text, Html):
        return text
    return Html(html.escape(printable(text, keep="\n\t")))


def el(name: str, *children: str, attrs: Mapping[str, str] | None = None) -> Html:
    """Return an element.

    Args:
        name: of the element.
        children: what is in it; texts that are no markup are escaped.
        attrs: its attributes; values are escaped.
    """
    words = "".join(f' {key}="{escape(value)}"' for key, value in (attrs or {}).items())
    if name in _VOID and not children:
        return Html(f"<{name}{words}/>")
    return Html(f"<{name}{words}>{join(children)}</{name}>")


def join(parts: Sequence[str], separator: str = "") -> Html:
    """Put texts and markup together.

    Args:
        parts: texts that are no markup are escaped.
        separator: between them; escaped too.
    """
    return Html(escape(separator).join(map(escape, parts)))


class Cell(NamedTuple):
    """A cell of a table: what it shows, what it is sorted by, and its class."""

    text: str
    sort: float | None = None
    kind: str = ""


class Heading(NamedTuple):
    """The head of a column; one of numbers is aligned to the right."""

    text: str
    numbers: bool = False


def table(
    caption: str,
    headings: Sequence[Heading],
    rows: Sequence[Sequence[Cell | str]],
    *,
    kind: str = "",
    tall: bool = False,
) -> Html:
    """Return a table in a box that scrolls sideways by itself, where a screen is narrow.

    Args:
        caption: says what it shows.
        headings: of the columns.
        rows: their cells; the first of each row is its heading.
        kind: class of the table; ``sortable`` for one that the page's script sorts.
        tall: whether the box has a height of its own and scrolls downwards, too.
    """
    head = [
        el("th", heading.text, attrs={"scope": "col", **_kind("number" * heading.numbers)})
        for heading in headings
    ]
    body = [el("tr", *_cells(row, headings)) for row in rows]
    whole = el(
        "table",
        el("caption", caption),
        el("thead", el("tr", *head)),
        el("tbody", *body),
        attrs=_kind(kind),
    )
    # Focusable, so that a keyboard can scroll it.
    box = {
        "class": "scroll" + " tall" * tall,
        "tabindex": "0",
        "role": "region",
        "aria-label": caption,
    }
    return el("div", whole, attrs=box)


def _cells(row: Sequence[Cell | str], headings: Sequence[Heading]) -> list[Html]:
    cells = []
    for number, (cell, heading) in enumerate(zip(row, headings, strict=True)):
        text, sort, kind = cell if isinstance(cell, Cell) else Cell(cell)
        attrs = _kind(" ".join(word for word in ("number" * heading.numbers, kind) if word))
        if sort is not None:
            attrs["data-sort"] = repr(float(sort))
        if number:
            cells.append(el("td", text, attrs=attrs))
        else:
            cells.append(el("th", text, attrs={"scope": "row", **attrs}))
    return cells


def _kind(name: str) -> dict[str, str]:
    return {"class": name} if name else {}
