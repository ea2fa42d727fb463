"""The rooms of the code are those that CONTRIBUTING.md and docs/design.md tell of."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from .pages import PAGES, ROOT, headings

CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text("utf-8")


def rooms() -> set[str]:
    """Return the packages and public modules of autoround."""
    inside = (ROOT / "autoround").iterdir()
    names = {path.stem for path in inside if path.is_dir() or path.suffix == ".py"}
    return {name for name in names if not name.startswith("_")}


def test_every_room_has_a_heading_in_the_design() -> None:
    assert rooms() <= set(headings(ROOT / "docs" / "design.md"))


def test_every_room_is_in_the_table_of_contributing() -> None:
    table = re.findall(r"^\| `autoround/(\w+)(?:/|\.py)` \|", CONTRIBUTING, re.MULTILINE)
    assert set(table) == rooms()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib came with Python 3.11")
def test_the_layers_are_those_that_are_checked() -> None:
    import tomllib

    with (ROOT / "pyproject.toml").open("rb") as file:
        contracts = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    block = CONTRIBUTING.partition("layers below its own:\n\n```\n")[2].partition("\n```")[0]
    assert block.splitlines() == [layer.removesuffix(" | _version") for layer in layers]


#: A file of this repository, named in running text; the folders it may be below.
NAMED = re.compile(r"`([\w./-]+/[\w.-]+\.(?:py|sh|toml|yaml|c|md))`")
BELOW = ("", "autoround", "backends", "backends/autoround_backends", "docs")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_the_documents_name_are_there(page: Path) -> None:
    if page.name in ("CHANGELOG.md", "log.md"):  # they tell of what was
        return
    named = NAMED.findall(page.read_text("utf-8"))
    missing = [name for name in named if not any((ROOT / top / name).exists() for top in BELOW)]
    assert missing == []
