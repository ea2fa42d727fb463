"""The check that each module has a test of its name."""

from __future__ import annotations

from pathlib import Path

from tools import check_mirror


def test_module_needs_its_test_or_a_line(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "__init__"):
        file = tmp_path / "autoround" / "x" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    tests = tmp_path / "tests" / "unit" / "x"
    tests.mkdir(parents=True)
    (tests / "test_a.py").write_text("# Tests: autoround/x/b.py\n", encoding="utf-8")
    assert check_mirror.untested(tmp_path) == ["autoround/x/c.py"]


def test_this_tree_is_as_listed() -> None:
    assert check_mirror.main([]) == 0
