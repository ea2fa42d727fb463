"""Each line of docs/security.md names tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")


def test_every_line_of_the_tables_is_held_by_a_test() -> None:
    rows = [r for r in PAGE.splitlines() if r.startswith("|") and not r.startswith(("|---", "| f"))]
    assert len(rows) > 12
    for row in rows:
        files = re.findall(r"`(tests/[\w/]+\.py)`", row)
        assert files, row
        assert [file for file in files if not (ROOT / file).is_file()] == []
