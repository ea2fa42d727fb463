"""The pages of the documentation, as the tests beside this file read them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)


def code_blocks(page: Path) -> list[tuple[str, str]]:
    """Return the language and the text of every fenced block."""
    return _FENCED.findall(page.read_text("utf-8"))


def prose(page: Path) -> str:
    """Return a page without its code."""
    return re.sub(r"`[^`\n]+`", "", _FENCED.sub("", page.read_text("utf-8")))


def headings(page: Path) -> list[str]:
    """Return the headings of a page, without their marks."""
    return _HEADING.findall(_FENCED.sub("", page.read_text("utf-8")))


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    known: set[str] = set()
    for heading in headings(page):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        same = [slug, *(f"{slug}-{number}" for number in range(1, 20))]
        known.add(next(name for name in same if name not in known))
    return known
