"""A release says one version everywhere, and what is missing is named."""

from __future__ import annotations

from pathlib import Path

from tools.release_ready import ROOT, main, problems


def write_checkout(root: Path) -> Path:
    """Write the files of a checkout that is ready for 0.2.0."""
    (root / "autoround").mkdir()
    (root / "docs").mkdir()
    (root / "autoround" / "_version.py").write_text('__version__ = "0.2.0"\n')
    (root / "CITATION.cff").write_text("version: 0.2.0\ndate-released: 2026-12-01\n")
    (root / "CHANGELOG.md").write_text("# C\n\n## [Unreleased]\n\n## [0.2.0] - 2026-12-01\n\n- a\n")
    (root / "docs" / "upgrading.md").write_text("# U\n\n## From 0.1 to 0.2\n")
    return root


def change(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def test_a_checkout_that_is_ready(tmp_path: Path) -> None:
    assert problems("v0.2.0", write_checkout(tmp_path)) == []


def test_everything_that_is_not_is_named(tmp_path: Path) -> None:
    root = write_checkout(tmp_path)
    assert len(problems("v0.3.0", root)) == 4
    assert problems("v0.2.1", root)[0] == "autoround/_version.py says 0.2.0"
    assert "three numbers" in problems("0.2", root)[0]
    change(root / "CHANGELOG.md", "## [Unreleased]\n", "## [Unreleased]\n\n- b\n")
    change(root / "docs" / "upgrading.md", "0.1", "0.0")
    change(root / "CITATION.cff", "date-released", "date")
    assert problems("v0.2.0", root) == [
        "CITATION.cff has no date-released",
        "CHANGELOG.md has lines under Unreleased",
        "docs/upgrading.md has no section '## From 0.1 to 0.2'",
    ]


def test_the_citation_has_the_version_of_the_package() -> None:
    from autoround import __version__

    assert f"version: {__version__}\n" in (ROOT / "CITATION.cff").read_text("utf-8")
    assert main([]) == 2
