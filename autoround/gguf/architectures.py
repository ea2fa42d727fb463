"""The architectures that can be written, and what llama.cpp computes of each: one table.

Every row is what a run of llama.cpp beside transformers showed on a small random model
(`tools/clients/gguf_archs.py`), not what its files have keys for: llama.cpp passes over a key
that an architecture of its does not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from autoround.errors import FormatError

#: Which layers llama.cpp takes to have a sliding window: none, all, every layer but each
#: nth, or those that a list in the file names.
Windows = Literal["none", "listed"] | int


@dataclass(frozen=True, slots=True)
class Architecture:
    """How llama.cpp computes an architecture.

    Attributes:
        name: llama.cpp's name.
        activations: transformers' names of the activations that it computes.
        pairs: Whether its rotary embedding turns neighbours, where transformers turns halves.
        plus_one: Whether its norms hold what transformers adds one to.
        frequencies: Whether it reads a tensor that divides each rotary frequency.
        long_factors: Whether it reads the two tensors of LongRoPE.
        partial: Whether only a part of each head may turn.
        local_base: Whether layers with a window have a rotary base of their own.
        windows: Which layers have a sliding window: "none", "listed" in the file, or a number:
            all but each nth.
        keys: Keys of the config that its metadata or refusals speak of, beside the common ones.
    """

    name: str
    activations: tuple[str, ...] = ("silu",)
    pairs: bool = False
    plus_one: bool = False
    frequencies: bool = False
    long_factors: bool = False
    partial: bool = False
    local_base: bool = False
    windows: Windows = "none"
    keys: tuple[str, ...] = ()


_LLAMA = Architecture("llama", pairs=True, frequencies=True, long_factors=True)
_TANH = ("gelu_pytorch_tanh", "gelu_new")
_ROUTED = ("norm_topk_prob", "decoder_sparse_step", "mlp_only_layers")
_GEMMA = ("query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping")
#: By transformers' model type.
ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "mixtral": _LLAMA,
    "qwen2": Architecture("qwen2"),
    "qwen3": Architecture("qwen3"),
    "qwen2_moe": Architecture("qwen2moe", keys=_ROUTED),
    "qwen3_moe": Architecture("qwen3moe", keys=_ROUTED),
    "gemma": Architecture("gemma", _TANH, plus_one=True),
    "gemma2": Architecture("gemma2", _TANH, plus_one=True, windows=2, keys=_GEMMA),
    "gemma3_text": Architecture(
        "gemma3",
        _TANH,
        plus_one=True,
        local_base=True,
        windows=6,
        keys=(*_GEMMA, "_sliding_window_pattern"),
    ),
    "phi3": Architecture("phi3", long_factors=True, partial=True),
    "gpt2": Architecture("gpt2", _TANH),
}


def architecture_of(config: Mapping[str, Any]) -> Architecture:
    """Return the architecture of a model.

    Args:
        config: As transformers writes it.

    Raises:
        FormatError: It cannot be written.
    """
    kind = config.get("model_type")
    if kind not in ARCHITECTURES:
        raise FormatError(
            f"GGUF: model type {kind!r} cannot be written; legal: {', '.join(ARCHITECTURES)}"
        )
    return ARCHITECTURES[str(kind)]
