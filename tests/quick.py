"""A tiny model and tiny recipes for whole commands as people type them."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from .tiny import make_tokenizer

RECIPES = Path(__file__).parents[1] / "recipes"


def write_wide_model(folder: Path) -> Path:
    """Write a model of one block whose layers take groups of 128, and texts of 2048 tokens."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        vocab_size=128,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        pad_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def write_quick_recipes(folder: Path) -> Path:
    """Write the built-in recipes with fewer steps, and fewer and shorter samples."""
    for path in RECIPES.glob("*.yaml"):
        text = path.read_text("utf-8")
        text = re.sub(r"(?m)^  iters: [1-9]\d*", "  iters: 3", text)
        text = re.sub(r"(?m)^  steps: [1-9]\d*", "  steps: 1", text)
        text = re.sub(r"(?m)^  nsamples: \d+", "  nsamples: 8", text)
        text = re.sub(r"(?m)^  seqlen: \d+", "  seqlen: 16", text)
        (folder / path.name).write_text(text, "utf-8")
    return folder
