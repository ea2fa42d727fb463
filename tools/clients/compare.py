"""Write one model in every format, let each client load it, and compare logits with ours.

    python tools/clients/compare.py --work DIR --python gptqmodel=VENV/bin/python ...

The embedded model is rounded without tuning: what is compared is the reading of codes, scales
and zero points, not their quality. Prints a table and exits with 1 if a client disagrees.
Ours is computed in float32; clients compute in float16 or bfloat16, and llama.cpp and, on some
processors, auto-round's own kernels round activations to 8 bits, so the tolerance is that of the
arithmetic: same first choice for 95 % of the tokens (90 % with 8-bit activations) and a KL
divergence of at most 0.02 nats. A zero point off by one at 4 bits gives one above 1.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from os.path import abspath
from pathlib import Path
from typing import Any

GGUF = (
    *("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k_s", "q3_k_s", "q3_k_m", "q3_k_l"),
    *("q4_k_s", "q4_k_m", "q5_k_s", "q5_k_m", "q6_k"),
)
#: Texts whose tokens llama.cpp must cut as transformers does.
TEXTS = [
    "Hello, world! It's 12345 o'clock.",
    "def f(x):\n    return x ** 2  # square\n\n\n\tend",
    "naïve café, 日本語のテキスト, emoji 🙂🙃",
    "  leading and   inner   spaces  ",
    "<|im_start|>user\nHi<|im_end|>",
    "URL: https://example.org/a?b=c&d=1.5e-3",
]
#: Which client reads which format with which schemes (bits, sym).
CASES: list[tuple[str, str, tuple[tuple[int, bool], ...]]] = [
    ("auto_round", "auto-round", ((2, False), (3, True), (4, True), (4, False), (8, True))),
    ("auto_round", "auto-round-torch", ((2, False), (3, True), (4, True), (4, False), (8, True))),
    ("auto_round:auto_awq", "auto-round", ((4, True), (4, False))),
    ("auto_gptq", "gptqmodel", ((2, True), (3, True), (4, True), (8, True))),
    ("gptq_v2", "gptqmodel", ((2, False), (4, True), (4, False), (8, False))),
    ("auto_awq", "gptqmodel", ((4, True), (4, False))),
    ("mlx", "mlx", ((2, False), (3, True), (4, True), (4, False), (6, True), (8, False))),
    ("fake", "transformers", ((4, True),)),
    *((f"gguf:{name}", "llama.cpp", ((4, True),)) for name in GGUF),
    ("compressed-tensors", "compressed-tensors", ((4, True), (4, False), (8, True), (8, False))),
]
#: Clients that may round activations to 8 bits.
COARSE = ("auto-round", "llama.cpp")
GROUP_SIZE = 64
SEQUENCES, LENGTH = 4, 128
SEARCHED = {
    "tuning.init": "search",
    "calibration.dataset": "embedded",
    "calibration.nsamples": 16,
    "calibration.seqlen": 128,
}


def main() -> None:
    """Run every case of the clients that were named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--python", action="append", default=[], metavar="CLIENT=PATH")
    parser.add_argument("--format", action="append", default=[], help="Only these formats.")
    parser.add_argument("--client", action="append", default=[], help="Only these clients.")
    args = parser.parse_args()
    pythons = {name: abspath(path) for name, path in (i.split("=", 1) for i in args.python)}
    args.work = args.work.absolute()
    args.work.mkdir(parents=True, exist_ok=True)
    tokens = save_tokens(args.work)
    failed = False
    print("| format | scheme | client | KL | same first choice | largest difference | text |")
    print("|---|---|---|---|---|---|---|")
    for format_name, client, schemes in CASES:
        # The same program with its plain kernel, whatever the processor.
        python = pythons.get(client.removesuffix("-torch"))
        if python is None or (args.format and format_name not in args.format):
            continue
        if args.client and client not in args.client:
            continue
        for bits, sym in schemes:
            folder = quantized(args.work, format_name, bits, sym)
            row = one(folder, client, python, tokens)
            failed = failed or not row["good"]
            scheme = f"W{bits} g{GROUP_SIZE} {'sym' if sym else 'asym'}"
            if client == "llama.cpp":
                scheme = "its own"
            print(f"| `{format_name}` | {scheme} | {client} | {row['line']} |", flush=True)
    sys.exit(failed)


def save_tokens(work: Path) -> Path:
    """Save token ids of English text: [SEQUENCES, LENGTH]."""
    from pydoc_data.topics import topics

    import numpy as np

    from autoround.evaluate.models import load_tokenizer
    from autoround.model.embedded import embedded_model

    text = "\n".join(topics[name] for name in sorted(topics)[:40])
    ids = load_tokenizer(embedded_model())(text)["input_ids"][: SEQUENCES * LENGTH]
    path = work / "tokens.npy"
    np.save(path, np.array(ids, dtype=np.int64).reshape(SEQUENCES, LENGTH))
    return path


def quantized(work: Path, format_name: str, bits: int, sym: bool) -> Path:
    """Round the embedded model without tuning, unless that was done before."""
    import autoround
    from autoround.recipe.load import load_recipe

    kind = "sym" if sym else "asym"
    if format_name.startswith("gguf:"):
        kind = "own"
    out = work / f"{format_name.replace(':', '-')}-w{bits}-{kind}"
    if not out.exists():
        values: dict[str, Any] = {
            "scheme.bits": bits,
            "scheme.sym": sym,
            "scheme.group_size": GROUP_SIZE,
        }
        # 2 bits rounded to nearest leave no model to speak of, and noise decides its words.
        values |= SEARCHED if bits == 2 or "q2" in format_name else {}
        recipe = load_recipe("rtn", values={**values, "output.format": format_name})
        autoround.quantize(None, recipe, output_dir=out, device="cpu")
    return out


def one(folder: Path, client: str, python: str, tokens: Path) -> dict[str, Any]:
    """Let a client read a folder, and compare."""
    import numpy as np
    import torch

    from autoround.evaluate.models import load_any, load_tokenizer

    if client == "mlx":  # its products of packed weights are slow on a CPU
        fewer = tokens.with_name("tokens-few.npy")
        np.save(fewer, np.load(tokens)[:1, :32])
        tokens = fewer
    out = folder.with_suffix(f".{client}.npy")
    command = [python, *script_of(client, folder), "--tokens", str(tokens), "--out", str(out)]
    # Some clients leave logs where they run.
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder.parent)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"good": False, "line": f"failed: {reason[:160]} | | |"}
    told = json.loads(done.stdout.strip().splitlines()[-1])
    text = told["text"]
    if client == "llama.cpp":
        cut = load_tokenizer(folder)
        wanted = [cut(t, add_special_tokens=False)["input_ids"] for t in TEXTS]
        if told["ids"] != wanted:
            return {"good": False, "line": f"cuts text into other tokens | | | {text}"}
    theirs = torch.from_numpy(np.load(out))
    out.unlink()
    model = load_any(folder, device="cpu")
    with torch.no_grad():
        ids = torch.from_numpy(np.load(tokens))
        ours = torch.cat([model(input_ids=row[None]).logits for row in ids])
    log_ours, log_theirs = ours.log_softmax(-1), theirs.log_softmax(-1)
    kl = max(0.0, float((log_ours.exp() * (log_ours - log_theirs)).sum(-1).mean()))
    same = float((ours.argmax(-1) == theirs.argmax(-1)).float().mean())
    worst = float((ours - theirs).abs().max())
    said = " ".join(text.split()).replace("|", "/")
    line = f"{kl:.5f} | {100 * same:.1f} % | {worst:.3f} | {said}"
    least = 0.9 if client in COARSE else 0.95
    return {"good": kl <= 0.02 and same >= least, "line": line}


def script_of(client: str, folder: Path) -> list[str]:
    """Return the arguments that let a client read a folder."""
    here = Path(__file__).absolute().parent
    if client == "mlx":
        return [str(here / "mlx_read.py"), "--model", str(folder)]
    if client != "llama.cpp":
        return [str(here / "read.py"), "--client", client, "--model", str(folder)]
    texts = folder.with_suffix(".texts.json")
    texts.write_text(json.dumps(TEXTS), encoding="utf-8")
    file = next(folder.glob("*.gguf"))
    return [str(here / "gguf_read.py"), "--model", str(file), "--texts", str(texts)]


if __name__ == "__main__":
    main()
