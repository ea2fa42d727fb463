"""Quantize one model here and with auto-round, same settings and tokens, and score both files.

    python tools/bench/vs_peer.py --model DIR --text TEXT --peer-python VENV/bin/python \\
        --bits 4 --group-size 64 --recipe light --rows ours,peer,rtn --out results.json

Every row runs in a process of its own, one after the other, on the same saved token ids:
the text's first 60 % of lines for calibration, perplexity on the rest. All rows are scored
by the same evaluator from the files they wrote; with --domain also on a text of another kind
(.jsonl with question and answer), and with --choices on multiple-choice questions. Rows
accumulate in --out; ``page.py`` beside this makes a table and a plot of them.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

#: What each row means: who runs, and what it sets over the shared settings.
ROWS: dict[str, dict[str, Any]] = {
    "ours": {"who": "ours"},
    "ours-fp32": {"who": "ours", "set": ["tuning.compute_dtype=float32"]},
    "opt-rtn": {"who": "ours", "set": ["tuning.iters=0", "tuning.init=search"]},
    "rtn": {"who": "ours", "set": ["tuning.iters=0", "tuning.init=minmax"]},
    "peer": {"who": "peer", "amp": True},
    "peer-fp32": {"who": "peer", "amp": False},
    "peer-ext": {"who": "peer", "amp": True, "ext": True},
    "gptq": {"who": "gptq"},
}


def main() -> None:
    """Dispatch to the orchestrator or to one worker."""
    args = parser().parse_args()
    if args.worker == "ours":
        run_ours(json.loads(args.job))
    elif args.worker == "peer":
        run_peer(json.loads(args.job))
    elif args.worker == "gptq":
        run_gptq(json.loads(args.job))
    elif args.worker == "score":
        run_score(json.loads(args.job))
    else:
        orchestrate(args)


def parser() -> argparse.ArgumentParser:
    """Build the command line."""
    found = argparse.ArgumentParser(description=__doc__)
    found.add_argument("--worker", help=argparse.SUPPRESS)
    found.add_argument("--job", help=argparse.SUPPRESS)
    found.add_argument("--model", type=Path, help="16-bit model folder")
    found.add_argument("--text", type=Path, help="text file, split 60/40 by lines")
    found.add_argument("--peer-python", default=sys.executable, help="Python with auto-round")
    found.add_argument("--gptq-python", default=sys.executable, help="Python with gptqmodel")
    found.add_argument("--domain", type=Path, help="text of another domain to score on too")
    found.add_argument("--choices", type=Path, help="multiple-choice questions to score on too")
    found.add_argument("--label", default="", help="name of our row in the table")
    found.add_argument("--recipe", default="light", help="our recipe")
    found.add_argument("--set", action="append", default=[], help="override of our recipe")
    found.add_argument("--rows", default="ours,peer,rtn", help=f"of {', '.join(ROWS)}")
    found.add_argument("--bits", type=int, default=4)
    found.add_argument("--group-size", type=int, default=64)
    found.add_argument("--asym", action="store_true")
    found.add_argument("--iters", type=int, default=50)
    found.add_argument("--peer-iters", type=int, help="the peer's steps; by default ours")
    found.add_argument("--peer-lr", type=float, help="the peer's rate; by default 1/iters")
    found.add_argument("--nsamples", type=int, default=64)
    found.add_argument("--seqlen", type=int, default=256)
    found.add_argument("--batch-size", type=int, default=8)
    found.add_argument("--blocks", type=int, default=0, help="quantize the first n only; 0: all")
    found.add_argument("--eval-tokens", type=int, default=8192)
    found.add_argument("--work", type=Path, default=Path("bench-work"))
    found.add_argument("--out", type=Path, default=Path("bench.json"))
    return found


def orchestrate(args: argparse.Namespace) -> None:
    """Run every row, score it, print a table."""
    args.work.mkdir(parents=True, exist_ok=True)
    tokens = save_tokens(args)
    rows: list[dict[str, Any]] = json.loads(args.out.read_text()) if args.out.exists() else []
    for name in args.rows.split(","):
        row = ROWS[name]
        label = (args.label or name) if row["who"] == "ours" else name
        iters = args.peer_iters or args.iters if row["who"] == "peer" else args.iters
        folder = args.work / f"{label}-w{args.bits}{'a' if args.asym else 's'}-{iters}"
        subprocess.run(["rm", "-rf", str(folder)], check=True)
        job = {
            "model": str(args.model),
            "tokens": tokens,
            "out": str(folder),
            "amp": row.get("amp"),
            "ext": row.get("ext", False),
            "set": [*args.set, *row.get("set", [])],
            **{
                key: getattr(args, key)
                for key in (
                    *("recipe", "bits", "group_size", "asym", "peer_lr"),
                    *("nsamples", "seqlen", "batch_size", "blocks"),
                )
            },
            "iters": iters,
        }
        pythons = {"peer": args.peer_python, "gptq": args.gptq_python}
        python = pythons.get(row["who"], sys.executable)
        figures = call(python, row["who"], job)
        folder = Path(figures.pop("folder", folder))
        score = call(
            sys.executable,
            "score",
            {"model": str(folder), "original": str(args.model), "tokens": tokens},
        )
        settings = {k: job[k] for k in ("bits", "group_size", "asym", "iters", "nsamples")}
        settings |= {"seqlen": args.seqlen, "batch": args.batch_size, "recipe": args.recipe}
        settings |= {"blocks": args.blocks, "set": job["set"], "model": args.model.name}
        rows.append({"row": label, **settings, **figures, **score})
        args.out.write_text(json.dumps(rows, indent=1) + "\n")
        print(table(rows[-1:], header=len(rows) == 1), flush=True)


def save_tokens(args: argparse.Namespace) -> dict[str, str]:
    """Tokenize the two parts of the text once, for everyone."""
    import numpy as np
    from transformers import AutoTokenizer

    lines = args.text.read_text(encoding="utf-8").splitlines(keepends=True)
    cut = len(lines) * 6 // 10
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    paths = {}
    for part, chosen in (("calibration", lines[:cut]), ("evaluation", lines[cut:])):
        ids = np.array(tokenizer("".join(chosen))["input_ids"], dtype=np.int64)
        if part == "calibration":
            # Windows spread evenly over the text.
            starts = np.linspace(0, len(ids) - args.seqlen, args.nsamples).astype(int)
            ids = np.stack([ids[s : s + args.seqlen] for s in starts])
        else:
            ids = ids[: args.eval_tokens]
        path = args.work / f"{part}-{args.nsamples}x{args.seqlen}-{args.eval_tokens}.npy"
        np.save(path, ids)
        paths[part] = str(path)
    if args.domain:
        texts = [json.loads(line) for line in args.domain.read_text("utf-8").splitlines()]
        text = "\n\n".join(f"Question: {t['question']}\nAnswer: {t['answer']}" for t in texts)
        ids = np.array(tokenizer(text)["input_ids"], dtype=np.int64)[-args.eval_tokens :]
        np.save(args.work / "domain.npy", ids)
        paths["domain"] = str(args.work / "domain.npy")
    if args.choices:
        paths["choices"] = str(args.choices)
    return paths


def call(python: str, worker: str, job: dict[str, Any]) -> dict[str, Any]:
    """Run a worker and return the JSON object of its last line."""
    command = [python, __file__, "--worker", worker, "--job", json.dumps(job)]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{worker} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    figures: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    if worker != "score":
        figures["process_s"] = round(time.perf_counter() - started, 1)
    return figures


def report(figures: dict[str, Any]) -> None:
    """Print a worker's figures with its peak memory, as the last line."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(json.dumps({**figures, "peak_gb": round(peak, 3)}))


def run_ours(job: dict[str, Any]) -> None:
    """Quantize with this package."""
    import numpy as np
    import torch

    import autoround
    from autoround.recipe.load import load_recipe

    recipe = load_recipe(
        job["recipe"],
        overrides=[
            f"scheme.bits={job['bits']}",
            f"scheme.group_size={job['group_size']}",
            f"scheme.sym={'false' if job['asym'] else 'true'}",
            f"tuning.iters={job['iters']}",
            f"tuning.batch_size={job['batch_size']}",
            f"calibration.nsamples={job['nsamples']}",
            f"calibration.seqlen={job['seqlen']}",
            *job["set"],
            *(
                [f"ignore=['re:layers\\.({'|'.join(map(str, range(job['blocks'], 200)))})\\.']"]
                if job["blocks"]
                else []
            ),
        ],
    )
    ids = torch.from_numpy(np.load(job["tokens"]["calibration"]))
    result = autoround.quantize(job["model"], recipe, output_dir=job["out"], data=ids)
    seconds = round(result.tuning_seconds, 1)
    report({"tuning_s": seconds, "dtype": result.plan.compute_dtype})


def run_peer(job: dict[str, Any]) -> None:
    """Quantize with auto-round, in the Python that has it."""
    import auto_round  # type: ignore[import-not-found, unused-ignore]
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype="auto")
    ids = torch.from_numpy(np.load(job["tokens"]["calibration"]))
    quantizer = auto_round.AutoRound(
        model,
        tokenizer,
        bits=job["bits"],
        group_size=job["group_size"],
        sym=not job["asym"],
        iters=job["iters"],
        lr=job["peer_lr"],
        nsamples=job["nsamples"],
        seqlen=job["seqlen"],
        batch_size=job["batch_size"],
        dataset=[row[None] for row in ids],
        amp=job["amp"],
        device_map="cpu",
        enable_torch_compile=False,
        **({"enable_alg_ext": True} if job["ext"] else {}),
    )
    started = time.perf_counter()
    _, folders = quantizer.quantize_and_save(job["out"], format="auto_round")
    seconds = time.perf_counter() - started
    folder = folders[0] if isinstance(folders, (list, tuple)) else folders
    dtype = "bfloat16" if job["amp"] else "float32"
    report({"tuning_s": round(seconds, 1), "dtype": dtype, "folder": str(folder)})


def run_gptq(job: dict[str, Any]) -> None:
    """Quantize with GPTQ as GPTQModel does it, in the Python that has it."""
    import numpy as np
    from gptqmodel import BACKEND, GPTQModel, QuantizeConfig

    config = QuantizeConfig(
        bits=job["bits"],
        group_size=job["group_size"],
        sym=not job["asym"],
        desc_act=False,
        format="gptq_v2",
    )
    rows = [
        {"input_ids": row.tolist(), "attention_mask": [1] * len(row)}
        for row in np.load(job["tokens"]["calibration"])
    ]
    model = GPTQModel.load(job["model"], config, device="cpu")
    started = time.perf_counter()
    model.quantize(rows, batch_size=job["batch_size"], backend=BACKEND.TORCH)
    seconds = time.perf_counter() - started
    model.save(job["out"])
    report({"tuning_s": round(seconds, 1), "dtype": "its own"})


def run_score(job: dict[str, Any]) -> None:
    """Score the written files against the 16-bit model, all in float32."""
    import numpy as np
    import torch

    from autoround.evaluate.models import load_any
    from autoround.evaluate.perplexity import evaluate

    ids = torch.from_numpy(np.load(job["tokens"]["evaluation"]))
    original = load_any(job["original"], device="cpu")
    model = load_any(job["model"], device="cpu")
    score = evaluate(model, ids, seqlen=1024, reference=original)
    assert score.kl is not None
    assert score.top1_agreement is not None
    further: dict[str, float] = {}
    if "domain" in job["tokens"]:
        ids = torch.from_numpy(np.load(job["tokens"]["domain"]))
        other = evaluate(model, ids, seqlen=1024, reference=original)
        further["domain_ppl"] = round(other.perplexity, 4)
        further["domain_ppl16"] = round(other.reference_perplexity or 0.0, 4)
        further["domain_kl"] = round(other.kl or 0.0, 5)
    if "choices" in job["tokens"]:
        from choices import accuracy  # beside this file

        further["choices"] = round(accuracy(model, job["original"], job["tokens"]["choices"]), 4)
    print(
        json.dumps(
            {
                "ppl": round(score.perplexity, 4),
                "ppl16": round(score.reference_perplexity or 0.0, 4),
                "kl": round(score.kl, 5),
                "top1": round(score.top1_agreement, 4),
                **further,
            }
        )
    )


COLUMNS = (
    *("row", "bits", "asym", "iters", "dtype", "ppl", "ppl16", "kl", "top1"),
    *("domain_kl", "choices", "tuning_s", "process_s", "peak_gb"),
)


def table(rows: list[dict[str, Any]], *, header: bool = True) -> str:
    """Return rows as Markdown."""
    head = ["| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
    body = ["| " + " | ".join(str(row.get(c, "")) for c in COLUMNS) + " |" for row in rows]
    return "\n".join([*(head if header else []), *body])


if __name__ == "__main__":
    main()
