"""Write one model in every format, let each client load it, and compare logits with ours.

    python tools/clients/compare.py --work DIR --python gptqmodel=VENV/bin/python ...

The embedded model (a small random one where experts matter) is rounded without tuning: what is
compared is the reading of codes, scales and zero points, not their quality. Prints a table and
exits with 1 if a client disagrees. ``--mixed`` takes only models of several schemes, which are
compared with plain weights written in the same run.
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
#: A format, the client that reads it, and schemes: (bits, sym), or the name of rules.
Case = tuple[str, str, tuple[tuple[int, bool] | str, ...]]
#: Which client reads which format with which schemes.
CASES: list[Case] = [
    ("auto_round", "auto-round", ((2, False), (3, True), (4, True), (4, False), (8, True))),
    # Asymmetric 4 bits have AWQ's packing, which this kernel of auto-round's does not read.
    ("auto_round", "auto-round-torch", ((2, False), (3, True), (4, True), (8, True))),
    ("auto_round:auto_awq", "auto-round", ((4, True), (4, False))),
    ("auto_gptq", "gptqmodel", ((2, True), (3, True), (4, True), (8, True))),
    ("gptq_v2", "gptqmodel", ((2, False), (4, True), (4, False), (8, False))),
    ("auto_awq", "gptqmodel", ((4, True), (4, False))),
    ("mlx", "mlx", ((2, False), (3, True), (4, True), (4, False), (6, True), (8, False))),
    ("fake", "transformers", ((4, True),)),
    *((f"gguf:{name}", "llama.cpp", ((4, True),)) for name in GGUF),
    ("compressed-tensors", "compressed-tensors", ((2, False), (3, True), (3, False), (4, True))),
    ("compressed-tensors", "compressed-tensors", ((4, False), (5, False), (6, True), (7, False))),
    ("compressed-tensors", "compressed-tensors", ((8, True), (8, False))),
]
#: Rules that give layers of one model many schemes, and which client reads which of them.
#: Kept layers are among them, and parts of what engines merge differ.
RULES: dict[str, list[dict[str, Any]]] = {
    "mixed 2-8": [
        {"kind": "attention", "bits": 8},
        {"match": "down_proj", "blocks": ["first 2", "last 2"], "bits": 8, "group_size": 32},
        {"match": "up_proj", "blocks": "5-7", "bits": 3},
        {"match": "model.layers.9.mlp.gate_proj", "bits": 2, "group_size": 32},
        {"match": "re:layers\\.1[01]\\.self_attn\\.v_proj$", "bits": 16},
        {"kind": "lm_head", "bits": 8},
    ],
    "mixed 4, 8": [
        {"kind": "attention", "bits": 8},
        {"match": "down_proj", "blocks": ["first 2", "last 2"], "bits": 8, "group_size": 32},
        {"match": "up_proj", "blocks": "every 3", "group_size": 32},
        {"match": "re:layers\\.1[01]\\.self_attn\\.v_proj$", "bits": 16},
    ],
    "mixed sym, asym": [
        {"kind": "attention", "bits": 8},
        {"match": "down_proj", "sym": False},
        {"match": "up_proj", "blocks": "every 3", "sym": False, "group_size": 32},
        {"match": "re:layers\\.1[01]\\.self_attn\\.v_proj$", "bits": 16},
    ],
    "mixed 4, 16": [
        {"match": "down_proj", "blocks": ["first 2", "last 2"], "bits": 16},
        {"match": "re:layers\\.1[01]\\.self_attn\\.v_proj$", "bits": 16},
    ],
    "mixed types": [
        {"kind": "attention", "type": "q8_0"},
        {"match": "down_proj", "type": "q5_k"},
        {"match": "up_proj", "blocks": "every 3", "type": "q3_k"},
        {"match": "gate_proj", "blocks": "last 1/8", "type": "q4_1"},
        {"match": "re:layers\\.1[01]\\.self_attn\\.v_proj$", "bits": 16},
        {"kind": "embeddings", "type": "q4_0"},
    ],
    "experts 4, rest 8": [
        {"kind": "attention", "bits": 8},
        {"kind": "mlp", "bits": 8},
        {"kind": "experts", "bits": 4},
    ],
    "experts 3 and 4, rest 8": [
        {"kind": "attention", "bits": 8},
        {"kind": "mlp", "bits": 8},
        {"kind": "experts", "bits": 4},
        {"kind": "experts", "match": "down_proj", "bits": 3},
    ],
    "experts q4_k, rest q8_0": [
        {"kind": "attention", "type": "q8_0"},
        {"kind": "mlp", "type": "q8_0"},
        {"kind": "experts", "type": "q4_k"},
    ],
}
MIXED: list[Case] = [
    ("auto_round", "auto-round", ("mixed 2-8", "mixed sym, asym")),
    ("auto_round", "auto-round-torch", ("mixed 2-8", "mixed sym, asym")),
    ("auto_round:auto_awq", "auto-round", ("mixed 4, 16",)),
    ("auto_gptq", "gptqmodel", ("mixed 2-8",)),
    ("gptq_v2", "gptqmodel", ("mixed 2-8", "mixed sym, asym")),
    ("auto_awq", "gptqmodel", ("mixed 4, 16",)),
    ("mlx", "mlx", ("mixed 2-8", "mixed sym, asym")),
    ("gguf:q4_k_s", "llama.cpp", ("mixed types",)),
    ("compressed-tensors", "compressed-tensors", ("mixed 4, 8", "mixed 2-8")),
    ("auto_round", "auto-round-torch", ("experts 3 and 4, rest 8",)),
    ("auto_gptq", "gptqmodel", ("experts 3 and 4, rest 8",)),
    ("mlx", "mlx", ("experts 3 and 4, rest 8",)),
    ("gguf:q4_k_s", "llama.cpp", ("experts q4_k, rest q8_0",)),
    ("compressed-tensors", "compressed-tensors", ("experts 4, rest 8",)),
]
#: Clients that may round activations to 8 bits.
COARSE = ("auto-round", "llama.cpp")
GROUP_SIZE = 64
SEQUENCES, LENGTH = 4, 128
SEARCHED = {
    "tuning.init_scale": "search",
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
    parser.add_argument("--mixed", action="store_true", help="Only models of several schemes.")
    args = parser.parse_args()
    pythons = {name: abspath(path) for name, path in (i.split("=", 1) for i in args.python)}
    args.work = args.work.absolute()
    args.work.mkdir(parents=True, exist_ok=True)
    tokens = save_tokens(args.work)
    failed = False
    print("| format | scheme | client | KL | same first choice | largest difference | text |")
    print("|---|---|---|---|---|---|---|")
    for format_name, client, schemes in MIXED if args.mixed else (*CASES, *MIXED):
        # The same program with its plain kernel, whatever the processor.
        python = pythons.get(client.removesuffix("-torch"))
        if python is None or (args.format and format_name not in args.format):
            continue
        if args.client and client not in args.client:
            continue
        for scheme in schemes:
            if isinstance(scheme, str):
                folder = mixed(args.work, format_name, scheme)
                words = scheme
            else:
                folder = quantized(args.work, format_name, *scheme)
                words = f"W{scheme[0]} g{GROUP_SIZE} {'sym' if scheme[1] else 'asym'}"
                words = "its own" if client == "llama.cpp" else words
            row = one(folder, client, python, tokens)
            failed = failed or not row["good"]
            print(f"| `{format_name}` | {words} | {client} | {row['line']} |", flush=True)
    sys.exit(failed)


def save_tokens(work: Path) -> Path:
    """Save token ids of English text: [SEQUENCES, LENGTH]."""
    from pydoc_data.topics import topics

    import numpy as np

    from autoround.model.files.embedded import embedded_model
    from autoround.model.files.tokenizer import load_tokenizer

    text = "\n".join(topics[name] for name in sorted(topics)[:40])
    ids = load_tokenizer(embedded_model()).encode(text)[: SEQUENCES * LENGTH]
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


def mixed(work: Path, format_name: str, name: str) -> Path:
    """Round the embedded model by rules, and write the weights beside it as plain ones.

    They are what the client is compared with: no reader of ours comes between. GGUF has grids
    of its own, so there is nothing beside it to compare with.
    """
    import autoround
    from autoround.recipe.load import load_recipe

    out = work / f"{name.replace(', ', '-').replace(' ', '-')}-{format_name.replace(':', '-')}"
    beside = not format_name.startswith("gguf:")
    if not out.exists():
        values: dict[str, Any] = {
            "scheme.group_size": GROUP_SIZE,
            "layers": RULES[name],
            "output.format": f"{format_name},fake" if beside else format_name,
            **SEARCHED,
        }
        recipe = load_recipe("rtn", values=values)
        source = experts_model(work) if name.startswith("experts") else None
        autoround.quantize(source, recipe, output_dir=out, device="cpu")
    return out / format_name.replace(":", "-") if beside else out


def experts_model(work: Path) -> Path:
    """Make a small mixture of experts of random weights, with the embedded model's tokenizer."""
    import torch
    import transformers

    from autoround.model.files.embedded import embedded_model

    folder = work / "experts-model"
    if not folder.exists():
        tokenizer = transformers.AutoTokenizer.from_pretrained(embedded_model())
        torch.manual_seed(0)
        config = transformers.Qwen2MoeConfig(
            vocab_size=len(tokenizer),
            hidden_size=256,
            intermediate_size=256,
            moe_intermediate_size=256,
            shared_expert_intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            num_experts=8,
            num_experts_per_tok=2,
            max_position_embeddings=512,
            tie_word_embeddings=False,
            initializer_range=0.05,
        )
        model = transformers.AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


def one(folder: Path, client: str, python: str, tokens: Path) -> dict[str, Any]:
    """Let a client read a folder, and compare."""
    import numpy as np
    import torch

    from autoround.evaluate.models import load_any
    from autoround.model.files.tokenizer import load_tokenizer

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
        wanted = [cut.encode(t, add_special_tokens=False) for t in TEXTS]
        if told["ids"] != wanted:
            return {"good": False, "line": f"cuts text into other tokens | | | {text}"}
    theirs = torch.from_numpy(np.load(out))
    out.unlink()
    ids = torch.from_numpy(np.load(tokens))
    ours = logits(load_any(folder, device="cpu"), ids)
    plain = folder.with_name("fake")
    if plain.is_dir():
        # Written from the codes in memory; ours was read from the files as the client's was.
        dense = logits(load_any(plain, device="cpu"), ids)
        # Plain weights are rounded to 16 bits, which may send a token to another expert.
        apart = divergence(dense, ours)
        if apart > 0.002:
            return {"good": False, "line": f"ours is {apart:.5f} off the plain weights | | | "}
        ours = dense
    kl = divergence(ours, theirs)
    same = float((ours.argmax(-1) == theirs.argmax(-1)).float().mean())
    worst = float((ours - theirs).abs().max())
    said = " ".join(text.split()).replace("|", "/")
    line = f"{kl:.5f} | {100 * same:.1f} % | {worst:.3f} | {said}"
    least = 0.9 if client in COARSE else 0.95
    return {"good": kl <= 0.02 and same >= least, "line": line}


def divergence(wanted: Any, found: Any) -> float:
    """Return the mean KL divergence in nats of logits [..., vocabulary]."""
    one, other = wanted.log_softmax(-1), found.log_softmax(-1)
    return max(0.0, float((one.exp() * (one - other)).sum(-1).mean()))


def logits(model: Any, ids: Any) -> Any:
    """Return logits [sequences, tokens, vocabulary]."""
    import torch

    with torch.no_grad():
        return torch.cat([model(input_ids=row[None]).logits for row in ids])


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
