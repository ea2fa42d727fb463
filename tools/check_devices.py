"""Check that only backends name kinds of accelerators: python tools/check_devices.py PATH...

Prints ``file:line: the line`` for each place, comments and help texts included, and ends with 1 if
there is any. Whatever is to differ between devices belongs behind the protocol of a backend.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

#: Names of devices, of their torch modules, and of what belongs to one of them only.
NAMES = re.compile(r"cuda|xpu|rocm|nvidia|cublas|cudnn|ipex", re.IGNORECASE)
#: Files that may name them all the same: path -> why.
ALLOWED: dict[str, str] = {
    "tools/check_devices.py": "lists what it looks for",
}


def places(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a file that name a device, with their numbers."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if NAMES.search(line):
            yield number, line.strip()


def main(roots: list[str]) -> int:
    """Check all Python files under some folders; returns the exit code."""
    files = sorted(file for root in roots for file in Path(root).rglob("*.py"))
    if not files:
        print(f"check_devices: no Python file in {', '.join(roots) or 'nothing'}", file=sys.stderr)
        return 2
    count = 0
    for file in files:
        for number, line in () if file.as_posix() in ALLOWED else places(file):
            print(f"{file}:{number}: names a device: {line}")
            count += 1
    print(f"check_devices: {len(files)} files, {count} violations")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
