"""Processor time of commands that only look at a model, against what they are held to.

    python tools/bench/start_up.py [--rounds N] [--only PART] [--folder DIR]

Commands that read headers are compared with ``--help``, ``plan`` with the import of the model's
class in a process of its own. Models have the headers of published ones; their weights are holes in
files, which take no room. Of each command the least seconds (user and system) of N rounds count:
another process can only add to them.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from autoround.formats.gptq.layout import GPTQ_V1
from autoround.model.known_classes import KnownClass, known_class
from autoround.types import Scheme

W4 = Scheme(4, 128, True)
#: safetensors' names of the dtypes that are written here, and the bytes of a number.
DTYPES = {"bfloat16": ("BF16", 2), "float16": ("F16", 2), "int32": ("I32", 4)}
_COMMON: Mapping[str, Any] = {
    "num_attention_heads": 32,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "dtype": "bfloat16",
}
MODELS: Mapping[str, Mapping[str, Any]] = {
    "8B": {
        **_COMMON,
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
    },
    "30B-A3B": {
        **_COMMON,
        "model_type": "qwen3_moe",
        "architectures": ["Qwen3MoeForCausalLM"],
        "vocab_size": 151936,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 48,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "max_position_embeddings": 40960,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
        "decoder_sparse_step": 1,
        "norm_topk_prob": True,
    },
}
#: A token for each character: the embedded text then has enough of them for the default recipe.
TOKENIZER = {
    "version": "1.0",
    "added_tokens": [],
    "pre_tokenizer": {
        "type": "Split",
        "pattern": {"Regex": "."},
        "behavior": "Isolated",
        "invert": False,
    },
    "model": {
        "type": "WordLevel",
        "vocab": {"[UNK]": 0, **{chr(32 + i): i + 1 for i in range(95)}},
        "unk_token": "[UNK]",
    },
}
CLASSES = {
    "8B": "from transformers.models.llama.modeling_llama import LlamaForCausalLM",
    "30B-A3B": "from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeForCausalLM",
}


class Measured(NamedTuple):
    """A command, its seconds, and those that it may take beside another's."""

    name: str
    seconds: float
    base: str
    allowed: float


def write_model(folder: Path, config: Mapping[str, Any], *, quantized: bool = False) -> Path:
    """Write a config and a file of weights that is a header and a hole.

    Args:
        folder: to write to.
        config: of a class that is written down in :mod:`autoround.model.known_classes`.
        quantized: whether the matrices of blocks are packed as GPTQ's are.
    """
    folder.mkdir(parents=True)
    known = known_class(config, folder)
    assert known is not None
    values = dict(config)
    if quantized:
        values["quantization_config"] = {
            "quant_method": "gptq",
            "bits": W4.bits,
            "group_size": W4.group_size,
            "sym": W4.sym,
        }
    (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
    (folder / "tokenizer.json").write_text(json.dumps(TOKENIZER), encoding="utf-8")
    named = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(named), encoding="utf-8")
    _write_hole(folder / "model.safetensors", _headers(known, quantized=quantized))
    return folder


def _headers(known: KnownClass, *, quantized: bool) -> dict[str, tuple[tuple[int, ...], str]]:
    headers = {name: (shape, "bfloat16") for name, shape in known.tensors().items()}
    if not quantized:
        return headers
    for matrix in known.matrices:
        for file in matrix.files():
            if file.startswith("model.layers.") and not file.endswith("mlp.gate"):
                del headers[f"{file}.weight"]
                parts = GPTQ_V1.part_headers(matrix.shape, W4)
                headers |= {f"{file}.{part}": header for part, header in parts.items()}
    return headers


def _write_hole(path: Path, headers: Mapping[str, tuple[tuple[int, ...], str]]) -> None:
    """Write a file of safetensors whose data are a hole."""
    entries, end = {}, 0
    for name, (shape, dtype) in headers.items():
        word, size = DTYPES[dtype]
        for n in shape:
            size *= n
        entries[name] = {"dtype": word, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def seconds_of(words: Sequence[str], rounds: int) -> float:
    """Return the least processor time of some runs of Python.

    Args:
        words: of its command line.
        rounds: how often it is run.
    """
    seconds = []
    for _ in range(rounds):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *words], stdout=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(seconds)


def measure(folder: Path, rounds: int, only: str) -> list[Measured]:
    """Run all commands.

    Args:
        folder: for the models.
        rounds: how often each is run.
        only: ``headers``, ``plan`` or empty for both.
    """
    rows: list[Measured] = []

    def row(name: str, words: Sequence[str], base: str = "", allowed: float = 0.0) -> None:
        rows.append(Measured(name, seconds_of(words, rounds), base, allowed))
        print(f"{name:<28} {rows[-1].seconds:6.2f} s", flush=True)

    command = ("-m", "autoround")
    if only != "plan":
        row("--help", [*command, "--help"])
        row("recipes list", [*command, "recipes", "list"], "--help", 3.0)
    for name, config in MODELS.items():
        plain = write_model(folder / name, config)
        packed = str(write_model(folder / f"{name}-gptq", config, quantized=True))
        if only != "plan":
            dry = ["convert", packed, "--to", "auto_round,mlx", "--dry-run"]
            row(f"inspect {name}", [*command, "inspect", packed], "--help", 3.0)
            row(f"convert --dry-run {name}", [*command, *dry], "--help", 3.0)
        if only != "headers":
            row(f"class of {name}", ["-c", CLASSES[name]])
            row(f"plan {name}", [*command, "plan", str(plain)], f"class of {name}", 1.5)
    return rows


def main() -> int:
    """Measure and print; returns 1 where a command takes more than it may."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("", "headers", "plan"), default="")
    parser.add_argument("--folder", type=Path, help="where the files with holes go")
    chosen = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory(dir=chosen.folder) as made:
        rows = measure(Path(made), chosen.rounds, chosen.only)
    seconds = {row.name: row.seconds for row in rows}
    over = 0
    for row in (row for row in rows if row.base):
        ratio = row.seconds / seconds[row.base]
        over += ratio > row.allowed
        print(f"{row.name} / {row.base}: {ratio:.2f}, allowed {row.allowed:.1f}")
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
