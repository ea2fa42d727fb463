"""Which tensors a model's code takes in float32 while the rest is in bfloat16."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from autoround.model.block_outputs import watch_outputs
from autoround.model.probe.small_copy import SmallCopy, make_small_copy, signature
from autoround.model.wide import kept_by_class

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def computed_in_float32(
    model: nn.Module, blocks: Sequence[str], names: Collection[str]
) -> frozenset[str]:
    """Return the tensors that can stay in float32 when blocks run in 16 bit.

    A norm whose weight is in float32 hands float32 on, which the next layer refuses; the bias of a
    router's choice, or the decay of a state space layer, is taken. What cannot be tried goes by
    the class's own list.

    Args:
        model: of transformers, possibly on meta.
        blocks: paths of its decoder blocks.
        names: of its tensors that are stored in float32.
    """
    if not names:
        return frozenset()
    keeps = kept_by_class(model)
    kinds = Counter(signature(model.get_submodule(path)) for path in blocks)
    config: Any = model.config
    copy = make_small_copy(type(model), config, kinds)
    if isinstance(copy, str) or not _runs(copy, frozenset()):
        return frozenset(name for name in names if keeps(name))
    inside: dict[str, set[str]] = {}
    for name, parameter in [*copy.model.named_parameters(), *copy.model.named_buffers()]:
        if parameter.is_floating_point():
            inside.setdefault(_NUMBER.sub("N", name), set()).add(name)
    groups = {_NUMBER.sub("N", name) for name in names}
    taken = {g for g in groups if g in inside and _runs(copy, frozenset(inside[g]))}
    together = frozenset().union(*(inside[group] for group in taken))
    if not _runs(copy, together):
        return frozenset(name for name in names if keeps(name))
    return frozenset(
        name
        for name in names
        if (place := _NUMBER.sub("N", name)) in taken or (place not in inside and keeps(name))
    )


def _runs(copy: SmallCopy, wide: frozenset[str]) -> bool:
    """Tell whether a copy in bfloat16 runs with some tensors in float32, and hands none on."""
    tensors: dict[str, Tensor] = {
        name: p if name in wide else p.bfloat16() for name, p in copy.model.named_parameters()
    }
    dtypes: set[torch.dtype] = set()
    try:
        with (
            torch.no_grad(),
            watch_outputs(copy.model, copy.blocks, lambda path, hidden: dtypes.add(hidden.dtype)),
        ):
            ids = copy.batch(1, 4, seed=0)
            functional_call(copy.model, tensors, (), {"input_ids": ids, "use_cache": False})
    except Exception:  # code that does not take it fails in many unrelated ways
        return False
    return dtypes == {torch.bfloat16}
