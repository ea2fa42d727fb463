"""Which machine and which code a row was measured with."""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path


def machine_name(threads: int) -> str:
    """Return the processor's name and the threads used."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text("utf-8").splitlines():
            if line.startswith("model name"):
                name = " ".join(line.partition(":")[2].split())
                break
    return f"{name}, {threads} threads"


def default_threads() -> int:
    """Return OMP_NUM_THREADS, or the cores this process may use."""
    stated = os.environ.get("OMP_NUM_THREADS", "")
    return int(stated) if stated.isdigit() and int(stated) else len(os.sched_getaffinity(0))


def code_mark(root: Path) -> str:
    """Return a short mark of this package's sources, so that new code gives new rows."""
    digest = hashlib.sha256()
    for part in ("autoround", "backends", "recipes"):
        for file in sorted((root / part).rglob("*")):
            if file.suffix in (".py", ".c", ".yaml") and "__pycache__" not in file.parts:
                digest.update(str(file.relative_to(root)).encode())
                digest.update(file.read_bytes())
    return digest.hexdigest()[:8]
