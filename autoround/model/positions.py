"""How many tokens a model can take at once."""

from __future__ import annotations

from typing import Any

from torch import nn


def position_limit(model: Any) -> int | None:
    """Return the length of a model's table of positions, or None where it has no such table.

    Models that turn queries and keys, or add a slope, take sequences of any length.
    """
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    stated = getattr(text, "max_position_embeddings", None)
    if not isinstance(stated, int) or not hasattr(model, "get_input_embeddings"):
        return None
    tokens = model.get_input_embeddings()
    tables = (m for m in model.modules() if isinstance(m, nn.Embedding) and m is not tokens)
    # Some tables begin with a place or two for padding.
    found = any(stated <= table.num_embeddings <= stated + 2 for table in tables)
    return stated if found else None
