"""Interrupt a real run, resume it, and compare every byte with a run in one go.

    python tools/resume_real.py --work DIR [--model DIR] [--formats auto_round,auto_gptq,gguf:q4_0]

Runs the command line on a model (by default the embedded SmolLM2-135M), once in one go and once
ended after some blocks, and again after some more (--at): by SIGKILL and SIGINT in turns. Prints
what differs; times and peaks of memory in report.jsonl are left out. With --load other processes
keep the machine busy while the killed run is resumed: its bytes must not tell.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

COMMON = [
    *("--iters", "2", "--nsamples", "8", "--seqlen", "64"),
    *("--batch-size", "4", "--group-size", "64", "--device", "cpu"),
]
MEASURED = ("seconds", "peak_bytes", "peak_reserved_bytes")


def command(args: argparse.Namespace, output: Path) -> list[str]:
    # A shell's background jobs ignore SIGINT, and so would what they start.
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from autoround.cli.main import run; sys.exit(run())"
    )
    model = [args.model] if args.model else []
    extra = ["--format", args.formats, "--dataset", "embedded", *args.extra.split(), "-o", output]
    return [sys.executable, "-c", code, "quantize", *model, *COMMON, *map(str, extra)]


def interrupt(words: list[str], output: Path, *, blocks: int, how: signal.Signals) -> None:
    """Run until so many records are there, then send a signal."""
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    journal = output.with_name(output.name + ".journal")
    while process.poll() is None:
        if len(list(journal.glob("pass-*/*.safetensors"))) >= blocks:
            process.send_signal(how)
            break
        time.sleep(0.02)
    _, errors = process.communicate()
    print(f"ended with {process.returncode} after {blocks} blocks or more")
    for line in errors.splitlines()[-1:]:
        print(" ", re.sub(r"'import signal.*?'", "…", line)[:160])


@contextmanager
def load(processes: int) -> Iterator[None]:
    """Let so many processes do nothing but work, for a while."""
    words = [sys.executable, "-c", "while True: pass"]
    running = [subprocess.Popen(words) for _ in range(processes)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def content(folder: Path) -> dict[str, bytes]:
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        if path.name in ("run.json", "report.html"):
            continue  # times of this very run, and the page made of them
        data = path.read_bytes()
        if path.name == "report.jsonl":
            rows = [json.loads(line) for line in data.splitlines()]
            kept = [{k: v for k, v in row.items() if k not in MEASURED} for row in rows]
            data = json.dumps(kept).encode()
        found[str(path.relative_to(folder))] = data
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--model")
    parser.add_argument("--formats", default="auto_round,auto_gptq,gguf:q4_0")
    parser.add_argument("--extra", default="", help="more options, in one text")
    parser.add_argument("--at", type=int, nargs="+", default=[5, 20], help="blocks of the ends")
    parser.add_argument(
        "--load",
        type=int,
        nargs="?",
        const=os.cpu_count() or 1,
        default=0,
        help="processes beside the resumed run; one for each processor where no number is given",
    )
    args = parser.parse_args()
    whole, parts = args.work / "whole", args.work / "parts"
    started = time.perf_counter()
    subprocess.run(command(args, whole), check=True, stdout=subprocess.DEVNULL)
    print(f"in one go: {time.perf_counter() - started:.0f} s")
    interrupt(command(args, parts), parts, blocks=args.at[0], how=signal.SIGKILL)
    again = [*command(args, parts), "--resume"]
    with load(args.load):
        for number, blocks in enumerate(args.at[1:], start=1):
            how = signal.SIGINT if number % 2 else signal.SIGKILL
            interrupt(again, parts, blocks=blocks, how=how)
        subprocess.run(again, check=True, stdout=subprocess.DEVNULL)
    one, other = content(whole), content(parts)
    wrong = [name for name in one.keys() | other.keys() if one.get(name) != other.get(name)]
    size = sum(map(len, one.values())) / 1e6
    print(f"{len(one)} files, {size:.1f} MB: " + (f"DIFFERENT: {wrong}" if wrong else "the same"))
    left = sorted(p.name for p in args.work.iterdir())
    print(f"left in the folder: {', '.join(left)}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
