"""Sliding windows of attention: which layers have one, and what a file says of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from autoround.errors import FormatError
from autoround.gguf.architectures import Architecture
from autoround.gguf.fields import Field

SLIDING = ("sliding_attention", "chunked_attention")


class WindowPlan(NamedTuple):
    """What a file says of windows.

    fields: entries below the architecture's name. notes: where llama.cpp differs, for the plan.
    """

    fields: list[Field]
    notes: list[str]


def sliding_layers(config: Mapping[str, Any]) -> list[bool]:
    """Tell for each layer whether its attention has a window.

    Args:
        config: As transformers writes it.
    """
    layers = int(config.get("num_hidden_layers") or config.get("n_layer") or 0)
    if not window_of(config):
        return [False] * layers
    kinds = config.get("layer_types")
    # A model that lists no kinds of layers has its window in all of them.
    return [True] * layers if not kinds else [kind in SLIDING for kind in kinds]


def window_of(config: Mapping[str, Any]) -> int:
    """Return the tokens that a window holds, 0 for none."""
    if config.get("use_sliding_window") is False:
        return 0
    return int(config.get("sliding_window") or config.get("attention_chunk_size") or 0)


def window_plan(config: Mapping[str, Any], arch: Architecture) -> WindowPlan:
    """Return what a file says of a model's windows.

    A window that llama.cpp does not compute is noted: up to its width, full attention is the same.

    Args:
        config: As transformers writes it.
        arch: What llama.cpp computes.

    Raises:
        FormatError: llama.cpp has windows in other layers than the model.
    """
    sliding, window = sliding_layers(config), window_of(config)
    context = int(config.get("max_position_embeddings") or config.get("n_positions") or 0)
    if arch.windows == "none":
        if not any(sliding) or window >= context:
            return WindowPlan([], [])
        note = (
            f"llama.cpp runs this architecture with full attention: up to {window} tokens (the "
            "model's sliding window) it computes what the model does, beyond them it computes "
            "otherwise"
        )
        return WindowPlan([], [note])
    if not any(sliding) and arch.name == "exaone4" and len(sliding) != 64:
        # It has windows at one depth, and no key for them at others.
        return WindowPlan([], [])
    if not any(sliding) and arch.windowless:
        # Some architectures have a default: one that holds the whole context is none.
        sliding, window = _layers_by_period(arch, len(sliding)) or sliding, context
    fields = [Field("attention.sliding_window", window, "u32")]
    if arch.windows == "listed":
        fields.append(Field("attention.sliding_window_pattern", sliding, "bools"))
    elif sliding != _layers_by_period(arch, len(sliding)):
        raise FormatError(
            f"GGUF: layer_types of this {arch.name} model; llama.cpp takes every "
            f"{arch.windows}th layer to have full attention, and the others a sliding window"
        )
    return WindowPlan(fields, [])


def _layers_by_period(arch: Architecture, layers: int) -> list[bool]:
    if not isinstance(arch.windows, int):
        return []
    return [(layer + 1) % arch.windows != 0 for layer in range(layers)]
