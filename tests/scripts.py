"""Scripts in a process of their own: what torch is told of a device stays for the process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def run_script(*words: str, timeout: float = 900, **environment: str) -> Any:
    """Run Python in the checkout; returns the JSON that is the last line it prints.

    words: of its command line. environment: variables beside those of this process.
    """
    done = subprocess.run(
        [sys.executable, *words],
        env={**os.environ, **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def import_paths() -> str:
    """Return the value of PYTHONPATH with which a script imports what this process does."""
    return os.pathsep.join([str(ROOT), *filter(None, sys.path)])
