"""What all workers share: a job comes in as a file, figures go out as one. Standard library only.

A worker runs in the Python of its program, which need not have this package.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def run(work: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Read the job named on the command line, do it, write its figures beside it."""
    place = Path(sys.argv[1])
    figures = work(json.loads(place.read_text("utf-8")))
    peak = {"peak_gb": round(peak_bytes() / 1e9, 3)}
    place.with_suffix(".figures.json").write_text(json.dumps(figures | peak), "utf-8")


def peak_bytes() -> int:
    """Return the most memory this process had in RAM at once.

    The kernel's mark of this program: the usual ru_maxrss also remembers the parent's.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def reserved_bytes() -> int:
    """Return the most memory that torch took from the accelerator at once; 0 without one."""
    import torch

    if not torch.accelerator.is_available():
        return 0
    device = torch.accelerator.current_accelerator()
    return int(torch.get_device_module(device).max_memory_reserved())
