"""The parts of a model that a quantized checkpoint need not have: heads put on a decoder."""

from __future__ import annotations

from typing import Any

from torch import nn


def new_heads(model: nn.Module) -> frozenset[str]:
    """Return the tensors that a checkpoint may lack, and that are made anew then.

    Args:
        model: of transformers, whose classes put heads beside a base model.

    Returns:
        The names of tensors outside the base model, such as a classifier's. Not those of the head
        that gives logits of tokens: a model without it says nothing, however often it is warned of.
    """
    loaded: Any = model
    prefix = str(getattr(model, "base_model_prefix", ""))
    base = getattr(model, prefix, None) if prefix else None
    if not isinstance(base, nn.Module):
        return frozenset()
    try:
        answers = loaded.get_output_embeddings()
    except (AttributeError, NotImplementedError, TypeError):
        answers = None
    inside = {f"{prefix}."}
    inside |= {f"{path}." for path, module in model.named_modules() if module is answers}
    return frozenset(n for n in model.state_dict() if not n.startswith(tuple(inside)))
