"""Peak memory for random models that differ in their number of blocks alone.

    python tools/memory_blocks.py --work DIR [--blocks 4 24] [--peer-python VENV/bin/python]

Makes Llama-like models of random bf16 weights, quantizes each in a process of its own with a few
tokens and steps, and prints the peak resident size of each process. What grows with the blocks is
what a program keeps of them. With --peer-python the same models go through auto-round there, with
its low-memory options.
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

SAMPLES, SEQLEN, STEPS, BATCH = 8, 64, 2, 2
CONFIG: dict[str, Any] = {
    "vocab_size": 8192,
    "hidden_size": 1536,
    "intermediate_size": 4864,
    "num_attention_heads": 12,
    "num_key_value_heads": 12,
    "tie_word_embeddings": False,
}


def make(folder: Path, blocks: int) -> None:
    """Write a model block by block, so that this process stays small, too."""
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**CONFIG, num_hidden_layers=blocks, dtype="bfloat16")
    config.architectures = ["LlamaForCausalLM"]
    folder.mkdir(parents=True)
    config.save_pretrained(folder)
    with torch.device("meta"):
        shapes = {n: tuple(t.shape) for n, t in LlamaForCausalLM(config).state_dict().items()}
    groups: dict[str, list[str]] = {}
    for name in shapes:
        groups.setdefault(name.split(".")[2] if ".layers." in name else "rest", []).append(name)
    index: dict[str, str] = {}
    for number, names in enumerate(groups.values()):
        file = f"model-{number}.safetensors"
        tensors = {n: (torch.randn(shapes[n]) * 0.02).bfloat16() for n in names}
        tensors |= {n: torch.ones(shapes[n]).bfloat16() for n in names if "norm" in n}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        index |= {n: file for n in names}
    weights = json.dumps({"metadata": {}, "weight_map": index})
    (folder / "model.safetensors.index.json").write_text(weights)


def ours(args: argparse.Namespace, model: Path, output: Path) -> None:
    """Quantize with this program."""
    formats, distill, init = args.formats, args.distill, args.init
    import torch

    from autoround import Destination, quantize
    from autoround.recipe.load import load_recipe

    values: dict[str, object] = {
        "tuning.iters": STEPS,
        "tuning.init_scale": init,
        "tuning.batch_size": BATCH,
        "tuning.num_validations": 1,
        "tuning.validation_samples": 2,
        "calibration.nsamples": SAMPLES,
        "calibration.seqlen": SEQLEN,
        "output.format": formats,
        "end_to_end.steps": distill,
        "end_to_end.batch_size": BATCH,
        "scheme.group_size": 64,
    }
    ids = torch.randint(0, CONFIG["vocab_size"], (SAMPLES, SEQLEN))
    place = Destination(output, max_memory=args.max_memory)
    quantize(model, load_recipe("default", values=values), output_dir=place, device="cpu", data=ids)


def peer(args: argparse.Namespace, model: Path, output: Path) -> None:
    """Quantize with auto-round, its options for little memory on; the tokenizer is not used."""
    import torch
    from auto_round import AutoRound
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
    ids = torch.randint(0, CONFIG["vocab_size"], (SAMPLES, SEQLEN))
    rows = [{"input_ids": row[None], "attention_mask": torch.ones_like(row[None])} for row in ids]
    tuner = AutoRound(
        loaded,
        tokenizer=AutoTokenizer.from_pretrained(args.peer_tokenizer),
        bits=4,
        group_size=64,
        iters=STEPS,
        nsamples=SAMPLES,
        seqlen=SEQLEN,
        batch_size=BATCH,
        dataset=rows,
        low_gpu_mem_usage=True,
        low_cpu_mem_usage=True,
        device_map="cpu",
    )
    tuner.quantize_and_save(str(output), format="auto_round")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--blocks", type=int, nargs="+", default=[4, 24])
    parser.add_argument("--formats", default="auto_round")
    parser.add_argument("--distill", type=int, default=0)
    parser.add_argument("--init", default="search", help="of this program: search or minmax")
    parser.add_argument("--max-memory", type=int)
    parser.add_argument("--peer-python")
    parser.add_argument("--peer-tokenizer", help="any folder with a tokenizer: it wants one")
    parser.add_argument("--one", nargs=2, metavar=("PROGRAM", "BLOCKS"))
    args = parser.parse_args()
    if args.one:
        program, blocks = args.one
        model = args.work / f"model-{blocks}"
        output = args.work / f"{program}-{blocks}-{time.time_ns()}"
        started = time.perf_counter()
        if program == "ours":
            ours(args, model, output)
        else:
            peer(args, model, output)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        seconds = time.perf_counter() - started
        print(f"RESULT {program} {blocks} blocks: peak {peak:.2f} GB, {seconds:.0f} s", flush=True)
        return
    for blocks in args.blocks:
        if not (args.work / f"model-{blocks}").exists():
            make(args.work / f"model-{blocks}", blocks)
    programs = [("ours", sys.executable)]
    programs += [("peer", args.peer_python)] if args.peer_python else []
    for program, python in programs:
        for blocks in args.blocks:
            command = [python, __file__, "--work", str(args.work), "--one", program, str(blocks)]
            command += ["--formats", args.formats, "--distill", str(args.distill)]
            command += ["--init", args.init]
            command += ["--max-memory", str(args.max_memory)] if args.max_memory else []
            command += ["--peer-tokenizer", args.peer_tokenizer] if args.peer_tokenizer else []
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            lines = [x for x in done.stdout.splitlines() if x.startswith("RESULT")]
            print(lines[0] if lines else done.stderr[-600:], flush=True)


if __name__ == "__main__":
    main()
