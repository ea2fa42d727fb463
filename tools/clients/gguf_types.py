"""Compare the types that our rules give to tensors with those of llama.cpp's own quantizer.

    python tools/clients/gguf_types.py --work DIR --python VENV/bin/python

Tiny random models of several architectures and widths are written in float32; llama.cpp
quantizes each to every file type. Prints a line for each pair, and exits with 1 on a
difference. The client's environment needs the packages llama-cpp-python and gguf.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from gguf_archs import write_plain
from gguf_options import COMMON

from autoround.formats.gguf.file_types import BASES
from autoround.gguf.metadata import FILE_TYPES

#: What the client runs: FILE OUT NUMBER, printing the types of OUT.
CLIENT = """
import ctypes, json, sys, llama_cpp, gguf
params = llama_cpp.llama_model_quantize_default_params()
params.ftype, params.nthread = int(sys.argv[3]), 2
code = llama_cpp.llama_model_quantize(
    sys.argv[1].encode(), sys.argv[2].encode(), ctypes.byref(params))
assert code == 0, code
tensors = gguf.GGUFReader(sys.argv[2]).tensors
print(json.dumps({t.name: t.tensor_type.name.lower() for t in tensors}))
"""
SMALL = {"vocab_size": 64, "num_hidden_layers": 18, "intermediate_size": 256}
CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("llama, 4 heads a key", "LlamaConfig", {}),
    (
        "llama, as many keys, tied",
        "LlamaConfig",
        {"num_key_value_heads": 8, "tie_word_embeddings": True},
    ),
    (
        "llama, width 288",
        "LlamaConfig",
        {"hidden_size": 288, "head_dim": 36, "intermediate_size": 160},
    ),
    ("mixtral, 8 experts", "MixtralConfig", {"num_local_experts": 8}),
    ("mixtral, 4 experts", "MixtralConfig", {"num_local_experts": 4}),
    ("qwen2", "Qwen2Config", {}),
    ("gemma2", "Gemma2Config", {"head_dim": 32, "query_pre_attn_scalar": 32}),
    ("phi3", "Phi3Config", {"sliding_window": None, "original_max_position_embeddings": 512}),
    ("gpt2", "GPT2Config", {"n_embd": 256, "n_layer": 9, "n_head": 8, "n_positions": 64}),
]


def main() -> None:
    """Compare every model with every file type."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--python", required=True)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    failed = False
    for name, kind, values in CASES:
        import torch
        import transformers

        from autoround.model.skeleton import adopt_model
        from autoround.planning.gguf_tensors import gguf_layout
        from autoround.types import OutputPlan

        torch.manual_seed(0)
        config = getattr(transformers, kind)(**{**COMMON, **SMALL, **values})
        model = transformers.AutoModelForCausalLM.from_config(config).float()
        file = args.work / "plain.gguf"
        write_plain(model, file)
        skeleton = adopt_model(model)
        for file_type in BASES:
            part = OutputPlan(f"gguf:{file_type}", f"gguf:{file_type}", "float32")
            ours = {target.name: kind for target, kind in gguf_layout(skeleton, part).tensors}
            out = args.work / "quantized.gguf"
            number = str(FILE_TYPES[file_type])
            done = subprocess.run(
                [args.python, "-c", CLIENT, str(file), str(out), number],
                capture_output=True,
                text=True,
            )
            if "requires an imatrix" in done.stderr + done.stdout:
                print(f"{name}, {file_type}: llama.cpp asks for an importance matrix, not compared")
                continue
            if done.returncode:
                print(f"{name}, {file_type}: failed: {done.stderr.strip().splitlines()[-1]}")
                failed = True
                continue
            theirs = json.loads(done.stdout.strip().splitlines()[-1])
            other = {n: (k, theirs.get(n)) for n, k in ours.items() if theirs.get(n) != k}
            failed = failed or bool(other)
            first = f"; first {next(iter(other.items()))}" if other else ""
            print(
                f"{name}, {file_type}: {len(ours)} tensors, {len(other)} differ{first}", flush=True
            )
    sys.exit(failed)


if __name__ == "__main__":
    main()
