"""Layers that a checkpoint has beyond its model class, such as those that predict further tokens.

Checkpoints of DeepSeek, GLM and Qwen hold blocks for multi-token prediction. Serving engines run
them; transformers' classes leave them out, and say which.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from torch import nn

from autoround.errors import FormatError
from autoround.model.blocks import decoder_blocks

#: What modules for multi-token prediction are called.
_FURTHER = re.compile(r"(^|\.)(mtp|nextn)(_\w+)?(\.|$)")
#: Keys of configs that say how many blocks there are of them.
_COUNTS = ("num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_layers")


def is_beyond(model: nn.Module, name: str) -> bool:
    """Tell whether a layer is one that the model class leaves out on purpose.

    Args:
        model: of the checkpoint.
        name: of a layer in the files that the model does not have.
    """
    patterns: Any = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()
    if _FURTHER.search(name) or any(re.search(one, f"{name}.weight") for one in patterns):
        return True
    blocks = decoder_blocks(model)
    listed = blocks[0].rpartition(".")[0].rpartition(".")[2]
    number = re.search(rf"(?:^|\.){re.escape(listed)}\.(\d+)\.", name)
    return number is not None and 0 <= int(number[1]) - len(blocks) < _further_blocks(model)


def beyond_notes(model: nn.Module, layers: Sequence[str]) -> list[str]:
    """Return a sentence on packed layers that the model class leaves out; nothing without any.

    Args:
        model: of the checkpoint.
        layers: packed layers of the files that the model does not have.

    Raises:
        FormatError: one of them is none that the class leaves out on purpose.
    """
    for name in layers:
        if not is_beyond(model, name):
            raise FormatError(f"layer {name} is quantized, and the model has no such layer")
    if not layers:
        return []
    more = f" and {len(layers) - 1} more" if len(layers) > 1 else ""
    return [
        f"layer {layers[0]}{more}: transformers' class has no such layers, which predict further "
        "tokens in serving engines; the model runs without them"
    ]


def _further_blocks(model: nn.Module) -> int:
    """Return how many blocks follow the decoder's by the model's config."""
    config: Any = model.config
    whole = config.get_text_config() if hasattr(config, "get_text_config") else config
    counts = [getattr(whole, key, None) for key in _COUNTS]
    return max((int(count) for count in counts if isinstance(count, int)), default=0)
