"""Causal language models small enough to make in a test, one of each kind that differs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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
    """One architecture: its options, where its blocks are, and the matrices of the last one.

    kept: those of them that may not be quantized.
    """

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
            (*ATTENTION, "mlp.gate", "mlp.experts.gate_up_proj", "mlp.experts.down_proj"),
            kept=("mlp.gate",),
        ),
        Kind(
            "qwen2_moe",
            {
                **COMMON,
                "num_experts": 4,
                "num_experts_per_tok": 2,
                "moe_intermediate_size": 32,
                "shared_expert_intermediate_size": 32,
            },
            (
                *ATTENTION,
                "mlp.gate",
                "mlp.experts.gate_up_proj",
                "mlp.experts.down_proj",
                "mlp.shared_expert.gate_proj",
                "mlp.shared_expert.up_proj",
                "mlp.shared_expert.down_proj",
                "mlp.shared_expert_gate",
            ),
            kept=("mlp.gate", "mlp.shared_expert_gate"),
        ),
        # Its activation keeps learned numbers in buffers.
        Kind("apertus", COMMON, (*ATTENTION, "mlp.up_proj", "mlp.down_proj")),
    )
}


def make_model(kind: str, *, seed: int = 0) -> Any:
    """Build a model with random weights: norms, biases and persistent buffers random too."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    config = AutoConfig.for_model(kind, **KINDS[kind].options)
    model = AutoModelForCausalLM.from_config(config).eval()
    parameters = dict(model.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        for name, buffer in model.state_dict().items():
            if name not in parameters and buffer.is_floating_point():
                buffer.add_(torch.rand_like(buffer))
    return model


def write_checkpoint(kind: str, folder: Path, *, tokenizer: bool = False) -> Path:
    """Write a float32 checkpoint of a model that :func:`make_model` makes."""
    make_model(kind).save_pretrained(folder)
    if tokenizer:
        make_tokenizer().save_pretrained(folder)
    return folder


def make_tokenizer(*, use_regex: bool = False) -> Any:
    """Build a tokenizer of printable ASCII, one character a token, with a chat template.

    use_regex: cut text into words first, as the tokenizers do that GGUF has a name for.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {"<s>": 0, "</s>": 1, "<pad>": 2, "<unk>": 3}
    # The byte-level names of a space and a line break come first.
    for char in ("\u0120", "\u010a", *map(chr, range(33, 127))):
        vocab[char] = len(vocab)
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def make_byte_tokenizer() -> Any:
    """Build a tokenizer of bytes that GGUF has a name for, with no more tokens than the models."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())[:100]
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def token_ids(rows: int, seqlen: int, *, seed: int = 0) -> Tensor:
    """Draw int64 [rows, seqlen] tokens, none of them special."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(4, VOCAB, (rows, seqlen), generator=generator)


class TinyConfig:
    """The least that a model in memory must have as its config."""

    def to_dict(self) -> dict[str, Any]:
        return {"model_type": "toy"}


class TinyModel(nn.Module):
    """A model of plain linear blocks, for tests of how blocks are called."""

    def __init__(self, blocks: int = 2) -> None:
        super().__init__()
        self.config = TinyConfig()
        self.embed = nn.Embedding(VOCAB, HIDDEN)
        self.layers = nn.ModuleList(TinyBlock() for _ in range(blocks))

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> Tensor:
        hidden: Tensor = self.embed(input_ids)
        for layer in self.layers:
            hidden = layer(hidden)
        return hidden


class TinyBlock(nn.Module):
    """One linear layer that does not mind what else it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(HIDDEN, HIDDEN)

    def forward(self, hidden: Tensor, *others: object, **named: object) -> Tensor:
        out: Tensor = self.fc(hidden)
        return out
