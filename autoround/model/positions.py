"""What a model's config says of its tokens: how many it can take, how wide they are."""

from __future__ import annotations

from typing import Any

from torch import nn


def text_config(model: Any) -> Any:
    """Return the config of a model's language part; None where it has none."""
    config: Any = getattr(model, "config", None)
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def hidden_size(model: Any) -> int:
    """Return the width of a model's stream, 0 where its config does not say."""
    text = text_config(model)
    return int(getattr(text, "hidden_size", 0) or getattr(text, "n_embd", 0) or 0)


def vocabulary_size(model: Any) -> int | None:
    """Return how many tokens a model knows; None for one without a table of them."""
    embeddings: Any = getattr(model, "get_input_embeddings", lambda: None)()
    return int(embeddings.weight.shape[0]) if hasattr(embeddings, "weight") else None


def position_limit(model: Any) -> int | None:
    """Return the length of a model's table of positions, or None where it has no such table.

    Models that turn queries and keys, or add a slope, take sequences of any length.
    """
    stated = getattr(text_config(model), "max_position_embeddings", None)
    if not isinstance(stated, int) or not hasattr(model, "get_input_embeddings"):
        return None
    tokens = model.get_input_embeddings()
    tables = (m for m in model.modules() if isinstance(m, nn.Embedding) and m is not tokens)
    # Some tables begin with a place or two for padding.
    found = any(stated <= table.num_embeddings <= stated + 2 for table in tables)
    return stated if found else None
