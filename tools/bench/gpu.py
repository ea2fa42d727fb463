"""Time tuning of a few blocks of a large model's shape on a device, and what the whole would take.

    python tools/bench/gpu.py --rows gpu.jsonl                  # ours, on the fastest device
    python tools/bench/gpu.py --rows gpu.jsonl --peer PYTHON_WITH_AUTO_ROUND
    python tools/bench/gpu.py --recipe turbo --blocks 3
    python tools/bench/gpu.py --shape tiny --device cpu         # does the script itself work?

Random weights, 128 samples of 2048 tokens, batches of 8, W4 in groups of 128, symmetric. Ours does
what a run of the whole model does: scales are searched, blocks are compiled where the whole would
have them compiled, activation streams and records are kept. Clocks are between finished blocks;
start, first block, last block (after which no stream is kept) and end stand apart, and the whole is

    start + first + (blocks - 2) x steady + last + end x (bytes of the whole / bytes written)

auto-round runs as it is installed, and without its compiler; twice each, with 1 and with 3 blocks,
and the whole is T(1) + (blocks - 1) x (T(3) - T(1)) / 2. Rows are in the file as soon as they are
measured, and those that it has for this device and code are not measured again.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import flops
import torch
from device_clock import DISK_BYTES, Rows, disk_speed, facts
from geometry import Geometry, geometry
from gpu_case import SHAPES, Case, call, make_model, make_tokens

from autoround.device.registry import open_device

#: Blocks of the peer's two runs, whose difference is what a block takes.
PEER_BLOCKS = (1, 3)


def job_of(case: Case, work: Path, name: str, *, blocks: int) -> dict[str, Any]:
    """Return what a worker is told; ``blocks`` of those that the model has."""
    return {
        "model": str(work / "model"),
        "calibration": str(work / "tokens.npy"),
        "out": str(work / name.replace(" ", "-").replace(",", "")),
        "variant": case.recipe,
        "bits": 4,
        "group_size": case.group,
        "asym": False,
        "nsamples": case.nsamples,
        "seqlen": case.seqlen,
        "batch_size": case.batch,
        "seed": 42,
        "dtype": "bfloat16",
        "device": case.device,
        "blocks": blocks,
        "all_blocks": case.blocks,
        "prefix": geometry(work / "model").prefix,
        "set": {"iters": case.steps} if case.steps else {},
    }


def ours(case: Case, work: Path, name: str) -> dict[str, Any]:
    """Quantize all blocks of the model, and tell what the whole would take."""
    steps = [f"tuning.iters={case.steps}"] if case.steps else []
    low = "true" if "low memory" in name else "false"
    job = {
        **job_of(case, work, name, blocks=case.blocks),
        "set": [*steps, f"tuning.low_memory={low}"],
        "whole": case.whole,
        "parts": "parts" in name,
    }
    figures = call("worker_ours.py", job, work, sys.executable)
    clocks = figures["clocks"]
    rest = clocks["blocks"][1:-1]
    if not rest:
        raise ValueError("first and last block are not steady: give --blocks 3 or more")
    steady = median(rest)
    grows = figures["whole_bytes"] / max(figures["disk_bytes"], 1)
    seconds = clocks["start"] + clocks["blocks"][0] + clocks["blocks"][-1]
    seconds += (case.whole - 2) * steady + clocks["end"] * grows
    return {
        "version": figures["version"],
        "compiled": figures["compiled"],
        "streams_on_device": figures["streams_on_device"],
        "start_s": clocks["start"],
        "first_block_s": clocks["blocks"][0],
        "steady_block_s": round(steady, 3),
        "last_block_s": clocks["blocks"][-1],
        "end_s": clocks["end"],
        "end_grows": round(grows, 2),
        "parts": figures.get("parts", []),
        **_common(case, work, figures, seconds=seconds, block=steady),
    }


def peer(case: Case, work: Path, name: str, python: str) -> dict[str, Any]:
    """Let auto-round quantize one block and three."""
    walls, figures = [], {}
    for blocks in PEER_BLOCKS:
        job = job_of(case, work, f"{name} {blocks}", blocks=blocks)
        job["variant"] = case.recipe if case.recipe == "light" else "default"
        job["own_compile"] = "uncompiled" not in name
        figures = call("worker_auto_round.py", job, work, python)
        walls.append(figures["whole_s"])
    few, more = PEER_BLOCKS
    block = (walls[1] - walls[0]) / (more - few)
    seconds = walls[0] + (case.whole - few) * block
    return {
        "version": figures["version"],
        "runs_s": dict(zip(map(str, PEER_BLOCKS), walls, strict=True)),
        "steady_block_s": round(block, 3),
        **_common(case, work, figures, seconds=seconds, block=block),
    }


def _common(
    case: Case, work: Path, figures: Mapping[str, Any], *, seconds: float, block: float
) -> dict[str, Any]:
    """Return what rows of all programs have: time of the whole, products a second, memory."""
    sizes: Geometry = geometry(work / "model")
    samples = flops.Samples(1, case.nsamples, case.seqlen)
    total = flops.operations(sizes, samples, figures["effort"])["total"]
    return {
        "extrapolated_to_blocks": case.whole,
        "extrapolated_minutes": round(seconds / 60, 2),
        "teraflops_of_a_steady_block": round(total / block / 1e12, 2) if block > 0 else None,
        "device_peak_gb": figures["device_peak_gb"],
        "device_peak_reserved_gb": figures.get("device_peak_reserved_gb"),
        "host_peak_gb": figures["peak_gb"],
        "effort": figures["effort"],
    }


def ceiling(case: Case, work: Path) -> dict[str, Any]:
    """Measure the products of a block's matrices alone."""
    job = {
        "matrices": [list(matrix) for matrix in geometry(work / "model").matrices],
        "tokens": case.batch * case.seqlen,
        "device": case.device,
    }
    figures = call("worker_ceiling.py", job, work, sys.executable)
    return {"teraflops": round(figures["bfloat16"] / 1e3, 2)}


def measure_rows(case: Case, rows: Rows, work: Path, options: argparse.Namespace) -> None:
    """Measure what the file does not have yet."""
    wanted: dict[str, Any] = {"ceiling": partial(ceiling, case, work)}
    name = "ours, parts" if options.parts else "ours"
    wanted[name] = partial(ours, case, work, name)
    if options.peer:
        for name in ("auto-round", "auto-round, uncompiled"):
            wanted[name] = partial(peer, case, work, name, options.peer)
    if options.low_memory:
        wanted["ours, low memory"] = partial(ours, case, work, "ours, low memory")
    disk = {"row": "disk"}
    if not rows.done(disk):
        size = DISK_BYTES if case.nsamples > 16 else 1 << 20
        rows.attempt(disk, partial(disk_speed, work, size))
    wanted = {name: measure for name, measure in wanted.items() if not rows.done({"row": name})}
    if wanted:
        make_model(case, work / "model")
        make_tokens(case, work / "tokens.npy")
    for name, measure in wanted.items():
        rows.attempt({"row": name}, measure)


def main(arguments: list[str] | None = None) -> int:
    """Measure all rows; returns the exit code, 1 where a row could not be measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--shape", choices=sorted(SHAPES), default="llama-3.1-8b")
    parser.add_argument("--recipe", default="default")
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--steps", type=int, default=0, help="0: those of the recipe")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--peer", help="a Python that has auto-round")
    parser.add_argument("--low-memory", action="store_true", help="ours with --low-memory, too")
    parser.add_argument("--parts", action="store_true", help="clocks around parts, which slow down")
    parser.add_argument("--rows", type=Path, help="file of JSON lines that rows are added to")
    parser.add_argument("--work", type=Path, help="folder for model and outputs, on the disk meant")
    options = parser.parse_args(arguments)
    case = Case(options.shape, options.blocks, 128, 2048, 8, 128, options.device, options.recipe)
    if options.shape.startswith("tiny"):
        case = replace(case, nsamples=8, seqlen=32, batch=4, group=32)
    device = open_device(options.device).device if options.device == "auto" else None
    case = replace(case, steps=options.steps, device=str(device) if device else options.device)
    shared = {"bench": "gpu", **asdict(case), **facts(torch.device(case.device))}
    rows = Rows(options.rows, shared)
    with tempfile.TemporaryDirectory(prefix="autoround-gpu-", dir=options.work) as folder:
        measure_rows(case, rows, Path(folder), options)
    return 1 if rows.failed else 0


if __name__ == "__main__":
    sys.exit(main())
