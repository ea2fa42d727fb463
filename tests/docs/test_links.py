"""Every relative link of the README and the documents leads to a file, and to a heading in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .pages import PAGES, anchors, headings, prose

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def broken(page: Path) -> list[str]:
    """Return the links of a page that lead nowhere."""
    wrong = []
    for link in LINK.findall(prose(page)):
        name, _, anchor = link.partition("#")
        if "://" in name:
            continue
        target = page.parent / name if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            wrong.append(link)
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    assert broken(page) == []


def test_links_that_lead_nowhere_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    (tmp_path / "other.md").write_text("# A *b*, c\n# A *b*, c\n```\n# no heading\n```\n")
    page.write_text(
        "[1](other.md#a-b-c-1) [2](other.md#c) [3](none.md) [4](https://x.org/y#z) `[5](no)`"
    )
    assert broken(page) == ["other.md#c", "none.md"]
    assert headings(tmp_path / "other.md") == ["A *b*, c", "A *b*, c"]
