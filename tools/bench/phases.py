"""Time the phases of tuning a block alone, on tensors of its shapes: phases.py [--rows FILE].

    python tools/bench/phases.py --rows phases.jsonl --work DIR
    python tools/bench/phases.py --shape tiny --device cpu    # does the script itself work?
    python tools/bench/phases.py --only search,columns

Weights and activations are random, in the shape of a block of Llama-3.1-8B; 8 x 2048 tokens a
batch. Each phase is a row in the file as soon as it is measured: the seconds between two events on
the device, and those of the host's clock. A phase that fails is a row with its error; the others go
on, and the exit code is 1. Phases that the file has for this device and code are not done again.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch
from device_clock import DISK_BYTES, Rows, current, disk_speed, facts, peaks
from phase_cases import BLOCKS, Block, cases
from phase_products import product_cases
from phase_steps import step_cases

from autoround.device.registry import open_device


def main(arguments: list[str] | None = None) -> int:
    """Measure all phases; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--shape", choices=sorted(BLOCKS), default="llama-3.1-8b")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rows", type=Path, help="file of JSON lines that rows are added to")
    parser.add_argument("--work", type=Path, help="folder on the disk that is timed")
    parser.add_argument("--only", default="", help="phases, by parts of their names")
    parser.add_argument("--again", action="store_true", help="phases that the file has, too")
    options = parser.parse_args(arguments)
    runtime = open_device(options.device)
    device, shape = runtime.device, BLOCKS[options.shape]
    rows = Rows(options.rows, {"bench": "phases", "shape": options.shape, **facts(device)})
    words = [word for word in options.only.split(",") if word]

    def is_due(name: str) -> bool:
        chosen = not words or any(word in name for word in words)
        return chosen and (options.again or not rows.done({"phase": name}))

    with current(device), runtime.computing():
        if is_due("disk"):
            with tempfile.TemporaryDirectory(dir=options.work) as folder:
                size = DISK_BYTES if shape.hidden > 1024 else 1 << 20
                rows.attempt({"phase": "disk"}, lambda: disk_speed(Path(folder), size))
        block = Block(shape, runtime)
        for name, work in (*cases(block), *step_cases(block), *product_cases(block)):
            if is_due(name):
                rows.attempt({"phase": name}, work)
                runtime.release()
    rows.add({"phase": "end", "failed": rows.failed, **peaks(device)})
    return 1 if rows.failed else 0


if __name__ == "__main__":
    torch.manual_seed(0)
    sys.exit(main())
