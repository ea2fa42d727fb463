"""Check that each module has a test of its name: check_mirror.py [--update].

autoround/x/y.py has tests/unit/x/test_y.py, or is named in a test file's own line
``# Tests: autoround/x/y.py``. Modules that have neither yet are listed in check_mirror.json; fails
where there is another one, and where one of the list has its test (--update writes the list).
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LISTED = Path(__file__).resolve().with_suffix(".json")
_TESTS = re.compile(r"^# Tests: (.+)$", re.MULTILINE)


def untested(root: Path) -> list[str]:
    """Return the modules of a tree that no test file answers for, as paths."""
    named: set[str] = set()
    for file in (root / "tests").rglob("test_*.py"):
        for line in _TESTS.findall(file.read_text(encoding="utf-8")):
            named.update(line.replace(",", " ").split())
    modules = sorted((root / "autoround").rglob("*.py"))
    paths = [file.relative_to(root) for file in modules if file.name != "__init__.py"]
    return [
        path.as_posix()
        for path in paths
        if path.as_posix() not in named and not (root / mirror(path)).is_file()
    ]


def mirror(path: Path) -> Path:
    """Return where the test of a module belongs."""
    return Path("tests", "unit", *path.parts[1:-1], f"test_{path.name}")


def main(arguments: list[str]) -> int:
    """Compare the modules without a test with the list, or write it; returns the exit code."""
    modules = untested(ROOT)
    if arguments == ["--update"]:
        LISTED.write_text(json.dumps(modules, indent=2) + "\n", encoding="utf-8")
        return 0
    listed: list[str] = json.loads(LISTED.read_text(encoding="utf-8"))
    for name in sorted(set(modules) - set(listed)):
        print(f"check_mirror: {name} has no test; add {mirror(Path(name))}, or a '# Tests:' line")
    for name in sorted(set(listed) - set(modules)):
        print(f"check_mirror: {name} is tested now, or gone; shorten the list with --update")
    return 1 if set(modules) != set(listed) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
