"""Mixed bits at equal size: by a budget, uniform, more for the ends, auto-round's AutoScheme.

    python tools/bench/mixed.py --model DIR --work DIR --out docs/mixed-rows.json \\
        --peer-python VENV/bin/python --budgets 3.0,2.5 --rows auto,ends,peer,peer-bits,uniform

All rows are calibrated on the same tokens and tuned for the same steps (--iters, 0: searched
scales only), each in a process of its own, and scored from the files that were written. ``peer``
is AutoScheme with auto-round's own rounding, ``peer-bits`` its bits with ours, which leaves only
the choice of bits to compare. Sizes are those of the files: codes, scales, zero points, indices.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import store
from bench import Bench, Settings, written
from geometry import fingerprint, geometry, stored_bits
from machine import code_mark, default_threads, machine_name
from mixed_page import write_page
from mixed_recipes import by_peer, ends, shared, uniform

#: Tokens of an evaluation window.
WINDOW = 1024
UNIFORM = ("W3g64", "W3gchannel", "W2g32", "W2g64")


def main() -> None:
    """Measure the rows that are not there yet, and write the page."""
    args = parser().parse_args()
    work = args.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    if args.page and not args.rows:
        write_page(args.page, store.read(args.out))
        return
    mixed = Mixed(args, work)
    for budget in map(float, args.budgets.split(",")):
        for row in filter(None, args.rows.split(",")):
            names = [f"uniform:{word}" for word in UNIFORM] if row == "uniform" else [row]
            for name in names:
                mixed.measure(name, budget)
    if args.page:
        write_page(args.page, store.read(args.out))


class Mixed:
    """Measures rows and keeps them in a file."""

    def __init__(self, args: argparse.Namespace, work: Path) -> None:
        self.args, self.work = args, work
        self.bench = Bench(settings_of(args), args.out, work)
        tokens = {"model": str(args.model), "work": str(work), "eval_tokens": args.eval_tokens}
        tokens |= {"nsamples": args.nsamples, "seqlen": args.seqlen, "seed": 0}
        self.tokens = self.bench.call("worker_mixed_tokens.py", tokens)
        self.bench.tokens = {"evaluation": self.tokens["evaluation"]}

    def key(self, name: str, budget: float) -> str:
        """Return what a row is kept by."""
        a, s = self.args, self.bench.settings
        fixed = name.startswith("uniform:")
        words = [s.model_name, name, "" if fixed else f"{budget:g} bits", f"iters {a.iters}"]
        words += [f"{a.nsamples}x{a.seqlen} {self.tokens['calibration']['mark']}", a.options]
        return " | ".join(filter(None, [*words, s.machine, self.tokens["evaluation"]["mark"]]))

    def measure(self, name: str, budget: float) -> None:
        """Quantize, score and keep a row, unless it is there."""
        key = self.key(name, budget)
        known = store.read(self.args.out)["rows"].get(key)
        if known is None or self.args.again:
            folder = self.work / "model-mixed"
            shutil.rmtree(folder, ignore_errors=True)
            figures = self.quantized(name, budget, folder)
            score = self.bench.call("worker_score.py", self.bench.score_job(folder))
            bits = stored_bits(folder, self.args.model)
            known = {
                "name": name,
                "budget": None if name.startswith("uniform:") else budget,
                **{key: value for key, value in figures.items() if key != "layer_config"},
                **{key: score[key] for key in ("ppl", "ppl16", "kl", "top1")},
                **{key: bits[key] for key in ("bpw", "model_bpw")},
                "machine": self.bench.settings.machine,
                "samples": f"{self.args.nsamples}x{self.args.seqlen}",
                "eval_tokens": self.args.eval_tokens,
                "code": self.bench.settings.code,
            }
            with store.changing(self.args.out) as contents:
                contents["rows"][key] = known
            shutil.rmtree(folder, ignore_errors=True)
        shown = ("bpw", "ppl", "kl", "predicted_kl", "scoring_cpu_s", "scoring_peak_gb", "seconds")
        words = "  ".join(f"{k} {known[k]}" for k in shown if known.get(k) is not None)
        print(f"{name:20} {budget:g}  {words}", flush=True)

    def quantized(self, name: str, budget: float, folder: Path) -> dict[str, Any]:
        """Write a row's model; returns what is known of how it came about."""
        a = self.args
        own = {"model": str(a.model), "calibration": self.tokens["calibration"]["path"]}
        own |= {"device": "cpu", "recipe": "default", "out": str(folder)}
        options = shared(a)
        if name == "peer":
            found = self.peer(budget, folder)
            place = self.work / f"peer-{budget:g}.json"
            place.write_text(json.dumps(found["layer_config"]), "utf-8")
            return found
        if name == "peer-bits":
            place = self.work / f"peer-{budget:g}.json"
            if not place.exists():
                raise SystemExit("peer-bits needs the row peer before it, in the same --work")
            return self.run({**own, "set": [*options, by_peer(json.loads(place.read_text()))]})
        if name == "ends":
            return self.run({**own, "set": [*options, *ends(geometry(a.model), a, budget)]})
        if name.startswith("uniform:"):
            return self.run({**own, "set": [*options, *uniform(name.partition(":")[2])]})
        return self.allocated(name, budget, own, options)

    def allocated(
        self, name: str, budget: float, own: dict[str, Any], options: list[str]
    ) -> dict[str, Any]:
        """Allocate (``auto``, ``auto-fused``, ``auto-measured``) and quantize by the export."""
        method = "measured" if name.endswith("measured") else "fisher"
        export = self.work / f"{name}-{budget:g}.yaml"
        scores = self.work / f"scores-{method}-{self.tokens['calibration']['mark']}.json"
        words = [f"W{bits}" for bits in self.args.options.split(",")]
        job = {
            **own,
            "export": str(export),
            "set": [
                *options,
                f"allocate.avg_bits={budget}",
                f"allocate.options=[{', '.join(words)}]",
                f"allocate.method={method}",
                f"allocate.nsamples={self.args.nsamples}",
                f"allocate.fused={'true' if name == 'auto-fused' else 'false'}",
                f"allocate.scores={scores}",
            ],
        }
        found = self.run(job)
        done = self.run({**own, "recipe": str(export), "set": []})
        return {**done, **{k: v for k, v in found.items() if k != "seconds"}}

    def run(self, job: dict[str, Any]) -> dict[str, Any]:
        """Run the worker with this package."""
        return self.bench.call("worker_mixed.py", job)

    def peer(self, budget: float, folder: Path) -> dict[str, Any]:
        """Let AutoScheme choose, and auto-round quantize."""
        a = self.args
        found = self.bench.call(
            "worker_autoscheme.py",
            {
                "model": str(a.model),
                "out": str(folder),
                "budget": budget,
                "options": [int(bits) for bits in a.options.split(",")],
                "group_size": a.group_size,
                "sym": a.sym,
                "text": self.tokens["text"],
                "cache": str(self.work / "peer-scores"),
                "calibration": self.tokens["calibration"]["path"],
                "batch_size": a.batch_size,
                "seed": 0,
                "iters": a.iters,
                "device": "cpu",
            },
            python=a.peer_python,
        )
        inner = written(folder)
        if inner != folder:
            for path in list(inner.iterdir()):
                shutil.move(str(path), str(folder / path.name))
        return found


def settings_of(args: argparse.Namespace) -> Settings:
    """Return the settings that the bench's own parts want."""
    shape = geometry(args.model)
    return Settings(
        model=args.model,
        model_name=f"{args.model.name}-{fingerprint(args.model)}",
        shape=shape,
        blocks=shape.blocks,
        nsamples=args.nsamples,
        fresh=0,
        seqlen=args.seqlen,
        eval_tokens=args.eval_tokens,
        batch_size=args.batch_size,
        group_size=args.group_size,
        dtype="float32",
        device="cpu",
        threads=args.threads,
        machine=args.machine or machine_name(args.threads),
        code=code_mark(Path(__file__).resolve().parents[2]),
        questions=0,
        texts={},
        pythons={},
    )


def parser() -> argparse.ArgumentParser:
    """Build the command line."""
    formatter = argparse.RawDescriptionHelpFormatter
    found = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    add = found.add_argument
    add("--model", type=Path, required=True, help="16-bit model folder")
    add("--work", type=Path, default=Path("bench-work"), help="folder for tokens and models")
    add("--out", type=Path, default=Path("mixed-rows.json"), help="file that rows accumulate in")
    add("--page", type=Path, help="page whose figures are written anew from the rows")
    add(
        "--rows", default="", help="auto, auto-fused, auto-measured, ends, peer, peer-bits, uniform"
    )
    add("--budgets", default="3.0,2.5", help="bits a weight, scales and zero points counted")
    add("--options", default="2,3,4,8", help="bits that a layer may have")
    add("--group-size", type=int, default=64)
    add("--sym", action="store_true", help="symmetric grids (default: with zero points)")
    add("--iters", type=int, default=0, help="tuning steps of all rows")
    add("--nsamples", type=int, default=32)
    add("--seqlen", type=int, default=256)
    add("--batch-size", type=int, default=8)
    add("--eval-tokens", type=int, default=8192)
    add("--again", action="store_true", help="measure rows again that are there")
    add("--threads", type=int, default=default_threads())
    add("--machine", help="name of this machine in the rows")
    add("--peer-python", default=sys.executable, help="Python with auto-round")
    return found


if __name__ == "__main__":
    main()
