"""The role of a layer in a decoder block: attention, feed-forward (MLP), or expert.

Models name these parts, and the classes of them, by few words; the nearest module around a layer
whose name has such a word decides. A layer of neither role (a state-space mixer, a
convolution) has none, and recipes select it by its name.
"""

from __future__ import annotations

import re

from torch import nn

from autoround.model.blocks import Matrix

ATTENTION, MLP, EXPERTS = "attention", "mlp", "experts"
HEAD, EMBEDDINGS = "lm_head", "embeddings"

_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
_MLP = re.compile(r"mlp|ffn|feed_?forward|moe|expert|^fc_?\d$|^ff$", re.IGNORECASE)
_EXPERTS = re.compile(r"(^|\.)experts(\.|$)")


def roles_of(model: nn.Module, matrix: Matrix, block: str) -> frozenset[str]:
    """Return the roles of a layer.

    Args:
        model: The whole model.
        matrix: The layer's weight.
        block: Path of the decoder block it is in.

    Returns:
        ``attention``, ``mlp``, or both ``mlp`` and ``experts``; empty for any other layer.
    """
    inside = matrix.name.removeprefix(block + ".")
    if matrix.experts or _EXPERTS.search(inside):
        return frozenset((MLP, EXPERTS))
    parts = inside.split(".")
    # From the layer outwards, because an MLP may sit in a module that is named after attention.
    for depth in range(len(parts), 0, -1):
        # The layer's own class (Linear) says nothing of its role; those around it do.
        words = [parts[depth - 1]]
        if depth < len(parts):
            words.append(type(model.get_submodule(f"{block}.{'.'.join(parts[:depth])}")).__name__)
        for role, pattern in ((ATTENTION, _ATTENTION), (MLP, _MLP)):
            if any(pattern.search(word) for word in words):
                return frozenset((role,))
    return frozenset()
