"""Speed of packed products and of models that run by them, beside unquantized ones and peers.

    python tools/bench/inference.py kernels
    python tools/bench/inference.py quality --work DIR --model SMOLLM2
    python tools/bench/inference.py small --work DIR --model SMOLLM2 --peer PYTHON --llama PYTHON
    python tools/bench/inference.py wide --work DIR --peer PYTHON

``kernels`` times one product. ``quality`` compares answers by each kernel with those of the
unpacked weights in float32, on the embedded text. ``small`` takes a model in 4 bits (groups of 64,
symmetric, rounded to nearest: speed does not depend on the codes), ``wide`` a random one of 4
layers that are 4096 wide; each row decodes 64 tokens greedily at batch 1 in a process of its own.
Peers run in their own environments: auto-round with and without auto-round-lib, llama.cpp with the
same model as Q4_0. Best of several turns, on as many threads as OMP_NUM_THREADS says.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

WIDTH = 4096
PROMPT, NEW = 32, 64


def main() -> None:
    """Do what is named; ``row`` is for the processes of the models."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("kernels", "quality", "small", "wide", "row"))
    parser.add_argument("--work", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--peer", help="interpreter with auto-round")
    parser.add_argument("--llama", help="interpreter with llama-cpp-python")
    parser.add_argument("--kind", choices=ROWS)
    args = parser.parse_args()
    if args.what == "kernels":
        kernels()
    elif args.what == "quality":
        quality(args.model, args.work)
    elif args.what == "row":
        print(json.dumps(ROWS[args.kind](str(args.model))))
    else:
        models(args)


# One product.


def quickest(turn: Callable[[], object], seconds: float = 0.4) -> float:
    """Return the milliseconds of the quickest call."""
    turn()
    best, stop = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < stop:
        started = time.perf_counter()
        turn()
        best = min(best, time.perf_counter() - started)
    return best * 1e3


def kernels() -> None:
    """Time x [rows, 4096] times W [4096, 4096]."""
    import torch

    from autoround.core.rounding import dense_weight
    from autoround.device.kernels import Demand
    from autoround.device.kernels import kernels as registered
    from autoround.types import QuantizedTensor, Scheme

    torch.set_grad_enabled(False)
    threads = torch.get_num_threads()
    rng = torch.Generator().manual_seed(0)
    dense = torch.randn((WIDTH, WIDTH), generator=rng)
    print(f"milliseconds, {threads} threads, 1 / 8 / 64 / 512 rows; error of 1 row against float64")
    print("| kernel | weight | x | 1 | 8 | 64 | 512 | relative error |")
    print("|---|---|---|---|---|---|---|---|")

    def row(name: str, weight: str, dtype: torch.dtype, run: Any, exact: Any) -> None:
        found = []
        for rows in (1, 8, 64, 512):
            x = torch.randn((rows, WIDTH), generator=rng).to(dtype)
            found.append(f"{quickest(partial(run, x)):.3f}")
        x = torch.randn((1, WIDTH), generator=rng).to(dtype)
        wanted = x.double() @ exact.double().t()
        error = float((run(x).double() - wanted).norm() / wanted.norm())
        cells = " | ".join(found)
        name_of = str(dtype).removeprefix("torch.")
        print(f"| {name} | {weight} | {name_of} | {cells} | {error:.1e} |", flush=True)

    for dtype in (torch.float32, torch.bfloat16):
        held = dense.to(dtype)
        row(
            "F.linear",
            "16 or 32 bits",
            dtype,
            lambda x, w=held: torch.nn.functional.linear(x, w),
            held,
        )
    for bits, sym in ((4, True), (4, False), (3, True), (2, True), (2, False), (8, True)):
        scheme = Scheme(bits, 128, sym)
        codes = torch.randint(0, 2**bits, dense.shape, generator=rng, dtype=torch.uint8)
        scale = torch.rand((WIDTH, WIDTH // 128), generator=rng).mul(0.01).add(0.001).half()
        zero = torch.full_like(scale, 2 ** (bits - 1), dtype=torch.uint8)
        if not sym:
            zero = torch.randint(0, 2**bits, scale.shape, generator=rng).to(torch.uint8)
        layer = QuantizedTensor(codes, scale, zero, scheme)
        exact = dense_weight(layer)
        for found in registered():
            kernel = found.kernel
            for dtype in (torch.float32, torch.bfloat16):
                demand = Demand((WIDTH, WIDTH), scheme, "cpu", dtype)
                if kernel is None or not found.availability.available or kernel.why_not(demand):
                    continue
                if kernel.devices and "cpu" not in kernel.devices:
                    continue
                run = kernel.bind(kernel.pack(layer, None), demand, None)
                row(found.name, str(scheme), dtype, run, exact)


def quality(source: Path, work: Path) -> None:
    """Print perplexity by each kernel, and KL and first choices against the unpacked model."""
    import torch

    from autoround.data.embedded import embedded_split
    from autoround.data.holdout import text_tokens
    from autoround.evaluate.perplexity import evaluate
    from autoround.inference.load import load
    from autoround.model.files.tokenizer import load_tokenizer

    packed = work / f"{source.name}-w4"
    if not packed.exists():
        quantize(source, packed, "auto_round", 64)
    ids = text_tokens(embedded_split()[1], load_tokenizer(source), max_tokens=4096)
    reference = load(packed, device="cpu", dtype=torch.float32, dense=True)
    print("| kernel | x | perplexity | KL | same first choice |\n|---|---|---|---|---|")
    for backend, dtype in (
        *(("native", d) for d in (torch.float32, torch.bfloat16)),
        *(("native-int8", d) for d in (torch.float32, torch.bfloat16)),
        ("unpacked", torch.bfloat16),
    ):
        dense = backend == "unpacked"
        how = {} if dense else {"backend": backend}
        model = load(packed, device="cpu", dtype=dtype, dense=dense, **how)
        found = evaluate(model, ids, seqlen=512, reference=reference)
        agreed = 100 * (found.top1_agreement or 0)
        name = str(dtype).removeprefix("torch.")
        print(f"| {backend} | {name} | {found.perplexity:.3f} | {found.kl:.2e} | {agreed:.2f} % |")


# Whole models: what a row does, in a process of its own.


def decoded(model: Any) -> dict[str, float]:
    """Let a transformers model write, and return tokens a second."""
    import torch

    ids = torch.arange(100, 100 + PROMPT)[None]

    def write(count: int) -> float:
        started = time.perf_counter()
        with torch.no_grad():
            model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=count,
                min_new_tokens=count,
                do_sample=False,
                pad_token_id=0,
            )
        return time.perf_counter() - started

    loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    write(4)
    first = time.perf_counter()
    found = [write(NEW)]
    while len(found) < 3 and time.perf_counter() - first < 20:
        found.append(write(NEW))
    return {"decode": NEW / min(found), "loading GB": loaded}


def dense(dtype: str) -> Callable[[str], dict[str, float]]:
    def row(folder: str) -> dict[str, float]:
        import torch
        from transformers import AutoModelForCausalLM

        return decoded(AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)))

    return row


def ours(dtype: str, backend: str = "auto") -> Callable[[str], dict[str, float]]:
    def row(folder: str) -> dict[str, float]:
        import torch

        import autoround

        model = autoround.load(folder, device="cpu", dtype=getattr(torch, dtype), backend=backend)
        return decoded(model)

    return row


def peer(library: bool) -> Callable[[str], dict[str, float]]:
    def row(folder: str) -> dict[str, float]:
        if not library:
            sys.modules["auto_round_kernel"] = None  # type: ignore[assignment]
        import auto_round  # noqa: F401 (its import registers the quantizer)
        import torch
        from transformers import AutoModelForCausalLM

        options: dict[str, Any] = {"dtype": torch.float32 if library else torch.bfloat16}
        if not library:
            from transformers import AutoRoundConfig

            options["quantization_config"] = AutoRoundConfig(backend="torch")
        return decoded(AutoModelForCausalLM.from_pretrained(folder, device_map="cpu", **options))

    return row


def llama(file: str) -> dict[str, float]:
    import llama_cpp
    import llama_cpp.llama_cpp as library

    # Weights repacked for AMX end in a crash where the system does not let programs use it.
    defaults = library.llama_model_default_params()
    defaults.use_extra_bufts = False
    library.llama_model_default_params = lambda: defaults
    threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
    model = llama_cpp.Llama(
        file, n_ctx=512, n_threads=threads, n_threads_batch=threads, verbose=False
    )
    found = []
    for _ in range(3):
        model.reset()
        tokens, stamps = model.generate(list(range(100, 100 + PROMPT)), temp=0.0), []
        for _, _token in zip(range(NEW + 1), tokens, strict=False):
            stamps.append(time.perf_counter())
        found.append(NEW / (stamps[-1] - stamps[0]))
    return {"decode": max(found), "loading GB": 0.0}


ROWS: dict[str, Callable[[str], dict[str, float]]] = {
    "unquantized, float32": dense("float32"),
    "unquantized, bfloat16": dense("bfloat16"),
    "ours, float32": ours("float32"),
    "ours, bfloat16": ours("bfloat16"),
    "ours, backend torch": ours("bfloat16", "torch"),
    "auto-round with auto-round-lib": peer(True),
    "auto-round, backend torch": peer(False),
    "llama.cpp, Q4_0": llama,
}


def models(args: argparse.Namespace) -> None:
    """Print a row for each way to run a model."""
    source, gguf = args.model, None
    if args.what == "wide":
        source = args.work / "wide"
        if not source.exists():
            make_wide(source)
    packed = args.work / f"{source.name}-w4"
    if not packed.exists():
        quantize(source, packed, "auto_round", 64)
    if args.llama and args.what == "small":
        folder = args.work / f"{source.name}-gguf"
        if not folder.exists():
            quantize(source, folder, "gguf:q4_0", 32)
        gguf = next(folder.glob("*.gguf"))
    print("| row | tokens/s | peak GB when loaded |\n|---|---|---|")
    for kind in ROWS:
        python, folder = sys.executable, packed
        if kind.startswith("unquantized"):
            folder = source
        elif kind.startswith("auto-round"):
            python = args.peer
        elif kind.startswith("llama"):
            python, folder = args.llama, gguf
        if not python or folder is None:
            continue
        command = [python, os.path.abspath(__file__), "row", "--kind", kind]
        done = subprocess.run(
            [*command, "--model", str(folder)], capture_output=True, text=True, cwd=args.work
        )
        if done.returncode:
            print(f"| {kind} | failed: {done.stderr.strip().splitlines()[-1][:120]} | |")
            continue
        found = json.loads(done.stdout.strip().splitlines()[-1])
        print(f"| {kind} | {found['decode']:.1f} | {found['loading GB']:.2f} |", flush=True)


def quantize(source: Path, target: Path, format: str, width: int) -> None:
    """Round a model to nearest in 4 bits."""
    from autoround.cli.main import run

    options = ["--recipe", "rtn", "--bits", "4", "--group-size", str(width), "--format", format]
    if run(["quantize", str(source), *options, "--output-dir", str(target)]):
        raise SystemExit(f"{source} could not be quantized")


def make_wide(folder: Path) -> None:
    """Write a Llama of 4 layers as wide as those of 7 billion weights, with random ones."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        "llama",
        hidden_size=WIDTH,
        intermediate_size=11008,
        num_hidden_layers=4,
        num_attention_heads=32,
        num_key_value_heads=8,
        vocab_size=8192,
    )
    torch.set_default_dtype(torch.bfloat16)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)


if __name__ == "__main__":
    main()
