"""What a layer of a decoder block does: attention, or feed-forward, or the work of one expert.

Models call these parts by few names, and their classes by as few; the nearest module around a
layer that has such a name decides. A layer of neither kind (a state-space mixer, a
convolution) has no kind, and is named by itself.
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


def kinds_of(model: nn.Module, matrix: Matrix, block: str) -> frozenset[str]:
    """Return the kinds of a layer in the decoder block at ``block``; experts are two kinds."""
    inside = matrix.name.removeprefix(block + ".")
    if matrix.experts or _EXPERTS.search(inside):
        return frozenset((MLP, EXPERTS))
    parts = inside.split(".")
    for depth in range(len(parts), 0, -1):
        # The class of the layer itself says only that it is a layer.
        words = [parts[depth - 1]]
        if depth < len(parts):
            words.append(type(model.get_submodule(f"{block}.{'.'.join(parts[:depth])}")).__name__)
        for kind, pattern in ((ATTENTION, _ATTENTION), (MLP, _MLP)):
            if any(pattern.search(word) for word in words):
                return frozenset((kind,))
    return frozenset()
