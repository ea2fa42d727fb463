"""Kernels of Triton compiled in a process of its own: its interpreter is chosen at import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any


def compiled(script: str, *words: str) -> dict[str, Any]:
    """Run a script without Triton's interpreter, and return the JSON of its last line."""
    done = subprocess.run(
        [sys.executable, "-c", script, *words],
        env={name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures
