"""Hold a checkout to what a release of it must say: python tools/release_ready.py v0.2.0.

The version of the package, a dated section of CHANGELOG.md, and CITATION.cff are those of the tag;
nothing is left under Unreleased; docs/upgrading.md tells of the way from the minor release before.
"""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def problems(tag: str, root: Path = ROOT) -> list[str]:
    """Return what a release under this tag would say wrongly, empty where it is ready.

    Args:
        tag: v and the version.
        root: the checkout.
    """
    version = tag.removeprefix("v")
    wrong = []
    if not re.fullmatch(r"v\d+\.\d+\.\d+", tag):
        wrong.append(f"the tag {tag!r} is not v and three numbers, such as v0.2.0")
    package = runpy.run_path(str(root / "autoround" / "_version.py"))["__version__"]
    if package != version:
        wrong.append(f"autoround/_version.py says {package}")
    citation = (root / "CITATION.cff").read_text(encoding="utf-8")
    if not re.search(rf"^version: {re.escape(version)}$", citation, re.MULTILINE):
        wrong.append(f"CITATION.cff does not say version: {version}")
    if not re.search(r"^date-released: \d{4}-\d{2}-\d{2}$", citation, re.MULTILINE):
        wrong.append("CITATION.cff has no date-released")
    return wrong + _changelog_problems(version, root) + _upgrading_problems(version, root)


def _changelog_problems(version: str, root: Path) -> list[str]:
    text = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    wrong = []
    if not re.search(
        rf"^## \[{re.escape(version)}\] - \d{{4}}-\d{{2}}-\d{{2}}$", text, re.MULTILINE
    ):
        wrong.append(f"CHANGELOG.md has no section ## [{version}] - YYYY-MM-DD")
    unreleased = text.partition("## [Unreleased]")[2].partition("\n## [")[0]
    if unreleased.strip():
        wrong.append("CHANGELOG.md has lines under Unreleased")
    return wrong


def _upgrading_problems(version: str, root: Path) -> list[str]:
    major, minor, patch = [*version.split("."), "0", "0"][:3]
    if patch != "0" or minor == "0":
        return []
    heading = f"## From {major}.{int(minor) - 1} to {major}.{minor}"
    text = (root / "docs" / "upgrading.md").read_text(encoding="utf-8")
    return [] if heading in text.splitlines() else [f"docs/upgrading.md has no section {heading!r}"]


def main(arguments: list[str]) -> int:
    """Print what is wrong; returns the exit code."""
    if len(arguments) != 1:
        print("release_ready: name the tag, such as v0.2.0", file=sys.stderr)
        return 2
    wrong = problems(arguments[0])
    for line in wrong:
        print(f"release_ready: {line}", file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
