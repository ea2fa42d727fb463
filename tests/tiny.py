"""Causal language models small enough to make in a test, one of each kind that differs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

VOCAB = 128
HIDDEN = 64
CHAT_TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)

#: Options that most Llama-like configs share.
COMMON: Mapping[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
TOKENS: Mapping[str, Any] = {
    "vocab_size": VOCAB,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}


@dataclass(frozen=True)
class Kind:
    """One architecture: its options, where its blocks are, and their matrices."""

    model_type: str
    options: Mapping[str, Any]
    matrices: tuple[str, ...]
    blocks: str = "model.layers"
    count: int = 2
    kept: tuple[str, ...] = ()


ATTENTION = tuple(f"self_attn.{n}_proj" for n in "qkvo")
MLP = tuple(f"mlp.{n}_proj" for n in ("gate", "up", "down"))
LLAMA = ATTENTION + MLP
GPT2 = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
NEOX = (
    "attention.query_key_value",
    "attention.dense",
    "mlp.dense_h_to_4h",
    "mlp.dense_4h_to_h",
)
BLOOM = (
    "self_attention.query_key_value",
    "self_attention.dense",
    "mlp.dense_h_to_4h",
    "mlp.dense_4h_to_h",
)

KINDS: Mapping[str, Kind] = {
    kind.model_type: kind
    for kind in (
        Kind("llama", COMMON, LLAMA),
        Kind("mistral", {**COMMON, "sliding_window": 8}, LLAMA),
        Kind("qwen2", COMMON, LLAMA),
        Kind("qwen3", {**COMMON, "head_dim": 16}, LLAMA),
        Kind(
            "gemma2",
            {**COMMON, "head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 16},
            LLAMA,
        ),
        Kind(
            "gemma3_text",
            {
                **COMMON,
                "head_dim": 16,
                "num_hidden_layers": 3,
                "sliding_window": 8,
                "query_pre_attn_scalar": 16,
                "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            },
            LLAMA,
            count=3,
        ),
        Kind(
            "phi3",
            COMMON,
            ("self_attn.o_proj", "self_attn.qkv_proj", "mlp.gate_up_proj", "mlp.down_proj"),
        ),
        Kind(
            "gpt2",
            {**TOKENS, "n_embd": HIDDEN, "n_layer": 2, "n_head": 4, "n_positions": 64},
            GPT2,
            "transformer.h",
        ),
        Kind(
            "opt",
            {
                **TOKENS,
                "hidden_size": HIDDEN,
                "ffn_dim": 96,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "max_position_embeddings": 64,
                "word_embed_proj_dim": HIDDEN,
            },
            (
                "self_attn.k_proj",
                "self_attn.v_proj",
                "self_attn.q_proj",
                "self_attn.out_proj",
                "fc1",
                "fc2",
            ),
            "model.decoder.layers",
        ),
        Kind(
            "gpt_neox",
            {k: v for k, v in COMMON.items() if k != "num_key_value_heads"},
            NEOX,
            "gpt_neox.layers",
        ),
        Kind("olmo2", COMMON, LLAMA),
        Kind(
            "falcon",
            {
                **TOKENS,
                "hidden_size": HIDDEN,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "alibi": True,
                "ffn_hidden_size": 128,
            },
            BLOOM,
            "transformer.h",
        ),
        Kind(
            "bloom",
            {**TOKENS, "hidden_size": HIDDEN, "n_layer": 2, "n_head": 4},
            BLOOM,
            "transformer.h",
        ),
        Kind("starcoder2", {**COMMON, "sliding_window": 8}, (*ATTENTION, "mlp.c_fc", "mlp.c_proj")),
        Kind("stablelm", COMMON, LLAMA),
        Kind(
            "mixtral",
            {**COMMON, "num_local_experts": 4, "num_experts_per_tok": 2},
            (*ATTENTION, "mlp.experts.gate_up_proj", "mlp.experts.down_proj"),
            kept=("mlp.experts.gate_up_proj", "mlp.experts.down_proj"),
        ),
    )
}
