"""Time tuning of a randomly initialised model in the shape of Llama-3.1-8B on a device.

    python tools/bench/gpu.py                             # the case below, on the fastest device
    python tools/bench/gpu.py --peer PYTHON_WITH_AUTO_ROUND
    python tools/bench/gpu.py --shape tiny --device cpu   # does the script itself work?

128 samples of 2048 tokens, batches of 8, 200 steps, W4 in groups of 128, symmetric, from min-max
as the peer starts. A few blocks are tuned and 32 are extrapolated; blocks of one model cost the
same. Rows: ours, ours with --low-memory, and auto-round on the same device in the same run. The
ceiling is that of the block's own products in bfloat16, measured before each row.
Figures of an H100 are in docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flops
from geometry import geometry

HERE = Path(__file__).parent
#: What the models are made with, but for the number of blocks.
SHAPES: dict[str, dict[str, int]] = {
    "llama-3.1-8b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    },
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 128,
    },
}
#: Blocks of the model that is extrapolated to.
WHOLE = 32


@dataclass(frozen=True)
class Case:
    """What every row does."""

    shape: str
    blocks: int
    nsamples: int
    seqlen: int
    batch: int
    steps: int
    group: int
    device: str


def make_model(case: Case, folder: Path) -> None:
    """Write a model with random weights and a tokenizer that nothing is read by."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    held = SHAPES[case.shape]
    config = LlamaConfig(
        **held,  # type: ignore[arg-type]
        num_hidden_layers=case.blocks,
        max_position_embeddings=max(case.seqlen, 64),
        bos_token_id=0,
        eos_token_id=1,
    )
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(case.device):  # a processor would draw a minute
        model = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder)
    vocabulary = {f"t{number}": number for number in range(held["vocab_size"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="t2"))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="t0", eos_token="t1", unk_token="t2", pad_token="t3"
    )
    fast.save_pretrained(folder)


def make_tokens(case: Case, place: Path) -> None:
    """Draw the samples."""
    import numpy as np

    drawn = np.random.default_rng(0).integers(
        4, SHAPES[case.shape]["vocab_size"], size=(case.nsamples, case.seqlen)
    )
    np.save(place, drawn)


def call(worker: str, job: dict[str, Any], folder: Path, python: str) -> dict[str, Any]:
    """Run a worker to its end and return its figures."""
    place = folder / "job.json"
    place.write_text(json.dumps(job), "utf-8")
    done = subprocess.run(
        [python, str(HERE / worker), str(place)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{worker} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(place.with_suffix(".figures.json").read_text("utf-8"))
    return found


def row(name: str, case: Case, work: Path, *, python: str) -> dict[str, Any]:
    """Measure the ceiling, then one program; returns figures a block."""
    sizes = geometry(work / "model")
    ceiling = call(
        "worker_ceiling.py",
        {
            "matrices": [list(matrix) for matrix in sizes.matrices],
            "tokens": case.batch * case.seqlen,
            "device": case.device,
        },
        work,
        sys.executable,
    )
    job = {
        "model": str(work / "model"),
        "calibration": str(work / "tokens.npy"),
        "out": str(work / name.replace(" ", "-")),
        "variant": "default",
        "bits": 4,
        "group_size": case.group,
        "asym": False,
        "nsamples": case.nsamples,
        "seqlen": case.seqlen,
        "batch_size": case.batch,
        "seed": 42,
        "dtype": "bfloat16",
        "device": case.device,
        "blocks": case.blocks,
        "all_blocks": case.blocks,
        "prefix": sizes.prefix,
        "set": {"iters": case.steps},
    }
    if name.startswith("ours"):
        low = "true" if "low memory" in name else "false"
        job["set"] = [
            f"tuning.iters={case.steps}",
            "tuning.init_scale=minmax",
            f"tuning.low_memory={low}",
        ]
    worker = "worker_ours.py" if name.startswith("ours") else "worker_auto_round.py"
    found = call(worker, job, work, python)
    samples = flops.Samples(case.blocks, case.nsamples, case.seqlen)
    total = flops.operations(sizes, samples, found["effort"])["total"]
    seconds = found["tuning_s"] / case.blocks
    return {
        "row": name,
        "version": found["version"],
        "seconds_a_block": round(seconds, 3),
        f"minutes_for_{WHOLE}_blocks": round(seconds * WHOLE / 60, 2),
        "gflops": round(total / found["tuning_s"] / 1e9, 1),
        "ceiling_gflops": ceiling["bfloat16"],
        "share_of_ceiling": round(total / found["tuning_s"] / 1e9 / ceiling["bfloat16"], 3),
        "device_peak_gb": found["device_peak_gb"],
        "host_peak_gb": found["peak_gb"],
    }


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Run all rows and print one line of JSON for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--shape", choices=sorted(SHAPES), default="llama-3.1-8b")
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--peer", help="a Python that has auto-round")
    parser.add_argument(
        "--work", type=Path, help="folder for the model; by default a temporary one"
    )
    given = parser.parse_args(arguments)
    case = Case(given.shape, given.blocks, 128, 2048, 8, 200, 128, given.device)
    if given.shape == "tiny":
        case = Case("tiny", given.blocks, 8, 32, 4, 10, 32, given.device)
    if case.device == "auto":
        from autoround.device.registry import open_device

        case = Case(**{**vars(case), "device": str(open_device().device)})
    rows = [("ours", sys.executable)]
    if given.peer:
        rows.append(("auto-round", given.peer))
    rows.append(("ours, low memory", sys.executable))
    with tempfile.TemporaryDirectory(prefix="autoround-gpu-", dir=given.work) as folder:
        work = Path(folder)
        make_model(case, work / "model")
        make_tokens(case, work / "tokens.npy")
        found = []
        for name, python in rows:
            found.append(row(name, case, work, python=python))
            print(json.dumps({**found[-1], "case": vars(case)}), flush=True)
    return found


if __name__ == "__main__":
    main()
