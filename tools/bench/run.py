"""Compare methods of quantizing one model: same tokens, same scores, files as they were written.

    python tools/bench/run.py --size quick --model DIR --text TEXT --bits 2,3,4 \\
        --rows 16bit,ours:light,ours:w2,peer:default,peer:ext,rtn,gptq,hqq \\
        --out rows.json --work DIR --peer-python VENV/bin/python ...

Every row is quantized in a process of its own, one after the other, and scored in another. Rows
accumulate in --out by model, method, settings, seed and machine: what is there is not measured
again (but with --again), so a bench goes on where it was stopped. ``rows.py`` says how rows are
written, ``flops.py`` what is counted as work, ``page.py`` makes tables and plots of the file.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bench import Bench, Settings, sizes
from geometry import fingerprint, geometry
from machine import code_mark, default_threads, machine_name
from rows import Grid, Row, parse_grids, parse_rows


def main() -> None:
    """Measure the rows that are not there yet."""
    args = parser().parse_args()
    settings = resolved(args)
    bench = Bench(settings, args.out, args.work)
    speed = bench.ceiling(again=args.matmul_ceiling and args.again)
    print(f"{settings.machine}: {speed['float32']} GFLOP/s float32, {speed['bfloat16']} bfloat16")
    if args.matmul_ceiling:
        return
    if not args.rows:
        raise SystemExit("name the --rows to measure")
    if args.text is None:
        raise SystemExit("name the --text to calibrate and evaluate on")
    rows = parse_rows(args.rows)
    grids = parse_grids(args.bits, asym=args.asym)
    seeds = [int(seed) for seed in args.seeds.split(",")] if args.seeds else sizes(args.size).seeds
    bench.prepare(seeds)
    failed = 0
    for grid, seed, row in plan(rows, grids, seeds):
        if not args.again and (known := bench.known(row, grid, seed)) is not None:
            print(f"{line(known)}   (kept)", flush=True)
            continue
        try:
            print(line(bench.measure(row, grid, seed, keep=args.keep)), flush=True)
        except RuntimeError as error:
            failed += 1
            print(f"{row.name} {grid.word} seed {seed}: {error}", file=sys.stderr, flush=True)
    if failed:
        raise SystemExit(f"{failed} rows failed; the others are in {args.out}")


def plan(rows: list[Row], grids: list[Grid], seeds: list[int]) -> list[tuple[Grid, int, Row]]:
    """Return the order of measuring: all methods side by side, a seed after the other."""
    return [
        (grid, seed, row)
        for grid in grids
        for seed in seeds
        for row in rows
        if seed == seeds[0] or not row.fixed
    ]


def line(row: dict[str, object]) -> str:
    """Return a row in one line."""
    keys = ("ppl", "kl", "top1", "choices", "tuning_s", "tflop", "of_ceiling", "peak_gb", "bpw")
    figures = "  ".join(f"{key} {row[key]}" for key in keys if row.get(key) is not None)
    return f"{row['name']:24} {row['grid']:3} seed {row['seed']}  {figures}"


def parser() -> argparse.ArgumentParser:
    """Build the command line."""
    formatter = argparse.RawDescriptionHelpFormatter
    found = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    add = found.add_argument
    add("--model", type=Path, required=True, help="16-bit model folder")
    add("--text", type=Path, help="text file: 60 %% of its lines calibrate, the rest evaluate")
    add("--size", default="quick", choices=["quick", "full"], help="quick: 8 blocks, 3 seeds")
    add("--rows", default="", help="what to measure, separated by commas; see rows.py")
    add("--bits", default="4", help="such as 2,3,4, or 2a,4s with the symmetry of each")
    add("--asym", action="store_true", help="grids with zero points where --bits does not say")
    add("--group-size", type=int, default=64)
    add("--seeds", help="such as 0,1,2; quick has 0,1,2, full has 0")
    add("--out", type=Path, default=Path("rows.json"), help="file that rows accumulate in")
    add("--work", type=Path, default=Path("bench-work"), help="folder for tokens and models")
    add("--domain", type=Path, help=".jsonl with question and answer to score on too")
    add("--choices", type=Path, help=".jsonl with multiple-choice questions to score on too")
    add("--questions", type=int, default=300, help="how many of them")
    add("--again", action="store_true", help="measure rows again that are there")
    add("--keep", action="store_true", help="keep the quantized models in the work folder")
    add("--matmul-ceiling", action="store_true", help="only measure how fast products are")
    add("--blocks", type=int, help="quantize the first n blocks; 0: all")
    add("--nsamples", type=int, help="calibration samples")
    add("--fresh", type=int, default=0, help="samples for rows with end_to_end.nsamples")
    add("--seqlen", type=int, help="tokens of each")
    add("--eval-tokens", type=int, help="tokens that are scored")
    add("--batch-size", type=int, default=8)
    add("--dtype", default="auto", choices=["auto", "bfloat16", "float32"], help="of the forwards")
    add("--device", default="cpu")
    add("--threads", type=int, default=default_threads(), help="of every worker")
    add("--machine", help="name of this machine in the rows; by default its processor's")
    add("--peer-python", default=sys.executable, help="Python with auto-round")
    add("--gptq-python", default=sys.executable, help="Python with gptqmodel")
    add("--hqq-python", default=sys.executable, help="Python with hqq")
    return found


def resolved(args: argparse.Namespace) -> Settings:
    """Work out the settings that all rows share."""
    shape = geometry(args.model)
    size = sizes(args.size)
    blocks = size.blocks if args.blocks is None else args.blocks
    texts = {"text": args.text, "domain": args.domain, "choices": args.choices}
    return Settings(
        model=args.model,
        model_name=f"{args.model.name}-{fingerprint(args.model)}",
        shape=shape,
        blocks=min(blocks or shape.blocks, shape.blocks),
        nsamples=args.nsamples or size.nsamples,
        fresh=args.fresh,
        seqlen=args.seqlen or size.seqlen,
        eval_tokens=args.eval_tokens or size.eval_tokens,
        batch_size=args.batch_size,
        group_size=args.group_size,
        dtype=args.dtype,
        device=args.device,
        threads=args.threads,
        machine=args.machine or machine_name(args.threads),
        code=code_mark(Path(__file__).resolve().parents[2]),
        questions=args.questions,
        texts={key: str(path) for key, path in texts.items() if path is not None},
        pythons={"peer": args.peer_python, "gptq": args.gptq_python, "hqq": args.hqq_python},
    )


if __name__ == "__main__":
    main()
