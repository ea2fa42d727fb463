"""The file that rows accumulate in: written as a whole, safe beside another bench."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def changing(path: Path) -> Iterator[dict[str, Any]]:
    """Give the contents to change, and write them when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        contents = read(path)
        yield contents
        fresh = path.with_suffix(".partial")
        fresh.write_text(json.dumps(contents, indent=1, sort_keys=True) + "\n", "utf-8")
        os.replace(fresh, path)


def read(path: Path) -> dict[str, Any]:
    """Return ``rows`` by key and ``ceilings`` by machine and shapes.

    Raises:
        SystemExit: the file is something else.
    """
    if not path.exists():
        return {"rows": {}, "ceilings": {}}
    contents = json.loads(path.read_text("utf-8"))
    if not isinstance(contents, dict) or not {"rows", "ceilings"} <= set(contents):
        raise SystemExit(f"{path} is no file of bench rows")
    return contents
