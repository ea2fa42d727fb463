from __future__ import annotations

import json
from pathlib import Path

from ..report._runs import write_folder
from .conftest import Command


def test_runs_side_by_side(autoround: Command, tmp_path: Path) -> None:
    one, two = write_folder(tmp_path / "one"), write_folder(tmp_path / "two")
    page = tmp_path / "compare.html"
    done = autoround("compare", one, two, "-o", page)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].startswith("run ")
    assert [Path(line.split()[0]).name for line in lines[1:3]] == ["one", "two"]
    assert lines[-1] == f"written      {page}"
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    plain = autoround("compare", one, two, "--json", "-o", page)
    assert [row["kl"] for row in json.loads(plain.out)] == [0.05, 0.05]


def test_what_is_refused(autoround: Command, tmp_path: Path) -> None:
    assert autoround("compare", tmp_path).code == 4
    one = write_folder(tmp_path / "one")
    lost = autoround("compare", one, "-o", tmp_path / "no" / "x.html")
    assert lost.code == 8
    assert autoround("compare").code == 2
