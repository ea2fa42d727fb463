"""Checkpoints as other programs write them: their configs to the letter, made-up weights.

``foreign_configs/NAME.json`` holds, of each: who wrote it, whether that program did so itself on a
model of this shape (``written``) or the config follows published ones, the keys of config.json,
the files beside it, and how its layers are held: regexes of names with bits, group size, whether
symmetric, and the layout.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from autoround.core.rounding import dense_weight
from autoround.formats.registry import layout_named
from autoround.formats.regroup import ordered_weight
from autoround.types import QuantizedTensor, Scheme

from .tiny_quantized import nearest

FOLDER = Path(__file__).parent / "foreign_configs"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
COMMON: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
    "tie_word_embeddings": False,
}
EXPERTS: dict[str, Any] = {"moe_intermediate_size": 128, "num_experts_per_tok": 2, "head_dim": 32}
KINDS: dict[str, dict[str, Any]] = {
    "llama": COMMON,
    "qwen2": COMMON,
    "qwen3_moe": {**COMMON, **EXPERTS, "num_experts": 4, "decoder_sparse_step": 1},
    "glm4_moe": {
        **COMMON,
        **EXPERTS,
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "first_k_dense_replace": 1,
        "num_nextn_predict_layers": 1,
    },
}


@dataclass(frozen=True)
class Foreign:
    """A checkpoint of another program, made up.

    layers: the quantized layers by their names in the files. orders: the group of every input of
    those whose inputs are out of order. dense: a plain checkpoint of the same weights.
    """

    folder: Path
    dense: Path
    layers: dict[str, QuantizedTensor]
    orders: dict[str, Tensor]


def read(name: str) -> dict[str, Any]:
    """Return what is kept of a checkpoint."""
    kept: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return kept


def write_base(kind: str, folder: Path) -> Path:
    """Write a model of random weights in float16, with the blocks that predict further tokens."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **KINDS[kind], dtype="float16")
    AutoModelForCausalLM.from_config(config).half().save_pretrained(folder)
    if "num_nextn_predict_layers" in KINDS[kind]:
        tensors = load_file(folder / "model.safetensors")
        last = {n: t for n, t in tensors.items() if n.startswith("model.layers.1.")}
        further = {n.replace("layers.1.", "layers.2.", 1): t.clone() for n, t in last.items()}
        further["model.layers.2.eh_proj.weight"] = torch.randn(128, 256).half() / 8
        further["model.layers.2.enorm.weight"] = torch.ones(128).half()
        further["model.layers.2.shared_head.head.weight"] = torch.randn(128, 128).half() / 8
        save_file(tensors | further, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def write_foreign(name: str, base: Path, folder: Path) -> Foreign:
    """Write a checkpoint of another program.

    Args:
        name: of NAMES.
        base: a plain checkpoint of its kind.
        folder: to write it below.
    """
    kept = read(name)
    layers: dict[str, QuantizedTensor] = {}
    orders: dict[str, Tensor] = {}
    packed: dict[str, Tensor] = {}
    dense: dict[str, Tensor] = {}
    for key, tensor in load_file(base / "model.safetensors").items():
        layer = key.removesuffix(".weight")
        rule = _rule(kept["layers"], layer) if layer != key and tensor.dim() == 2 else None
        if rule is None:
            packed[key] = dense[key] = tensor
            continue
        scheme = Scheme(rule["bits"], rule["group_size"], rule["sym"])
        rounded = nearest(tensor.float(), scheme)
        layers[layer] = quantized = QuantizedTensor(
            rounded.codes, rounded.scale.half(), rounded.zero.clamp_min(1), scheme
        )
        dense[key] = dense_weight(quantized)
        parts = layout_named(rule["layout"]).to_tensors(quantized)
        if rule.get("ordered"):
            shuffled = torch.randperm(tensor.shape[1], generator=torch.Generator().manual_seed(0))
            parts["g_idx"] = orders[layer] = parts["g_idx"][shuffled]
            dense[key] = ordered_weight(quantized, orders[layer])
        packed |= {f"{layer}.{part}": value.contiguous() for part, value in parts.items()}
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    for own, tensors, keys in (
        (folder / "packed", packed, kept["config"]),
        (folder / "dense", {n: t.float() for n, t in dense.items()}, {}),
    ):
        own.mkdir(parents=True)
        save_file(tensors, own / "model.safetensors", metadata={"format": "pt"})
        (own / "config.json").write_text(json.dumps({**config, **keys}), encoding="utf-8")
    for file, content in kept["files"].items():
        (folder / "packed" / file).write_text(json.dumps(content), encoding="utf-8")
    return Foreign(folder / "packed", folder / "dense", layers, orders)


def _rule(rules: dict[str, Any], name: str) -> dict[str, Any] | None:
    return next((rule for pattern, rule in rules.items() if re.fullmatch(pattern, name)), None)
