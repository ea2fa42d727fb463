"""The ratchet on words that say nothing and on comparisons of packing names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tools import check_words

SOURCE = """
def settled(x):
    found = x
    return found.packing == "mlx"


def settle(x):
    return x
"""


@pytest.fixture
def counts(tmp_path: Path) -> check_words.Counts:
    folder = tmp_path / "autoround" / "planning"
    folder.mkdir(parents=True)
    (folder / "plan.py").write_text(SOURCE, encoding="utf-8")
    return check_words.count(tmp_path)


def test_each_is_counted_by_folder(counts: check_words.Counts) -> None:
    assert all(number == {"autoround/planning": 1} for number in counts.values())
    assert len(counts) == 3


def test_growth_and_shrinkage_are_told(counts: check_words.Counts) -> None:
    assert check_words.changes(counts, counts) == []
    assert len(check_words.changes({}, counts)) == 3
    assert all("--update" in line for line in check_words.changes(counts, {}))


def test_this_tree_is_within_its_counts() -> None:
    tool = Path(__file__).parents[2] / "tools" / "check_words.py"
    done = subprocess.run([sys.executable, str(tool)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
