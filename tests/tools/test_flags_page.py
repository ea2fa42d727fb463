"""The page about auto-round has the tables that the table of flags makes."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TOOL: dict[str, Any] = runpy.run_path(str(ROOT / "tools" / "flags_page.py"))


def test_the_page_is_what_the_tool_writes() -> None:
    assert TOOL["main"](["--check"]) == 0


def test_a_page_that_is_not_is_told() -> None:
    text = TOOL["PAGE"].read_text("utf-8")
    assert TOOL["fill_tables"](text) == text
    assert TOOL["fill_tables"](text.replace("`--bits`", "`--bitz`", 1)) == text
