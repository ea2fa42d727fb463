"""Tensors that a checkpoint holds in float32 on purpose, beside weights in 16 bit.

A bias that corrects a router's choice, or the time constants of a state space layer: in bfloat16
they choose other experts, and decay at another rate.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch

from autoround.core.dtypes import Header


def main_dtype(headers: Mapping[str, Header]) -> torch.dtype | None:
    """Return the floating-point dtype that most weights of a model are stored in.

    Args:
        headers: of its tensors.

    Returns:
        The dtype; None where no tensor has one.
    """
    sizes: Counter[torch.dtype] = Counter()
    for shape, dtype in headers.values():
        if dtype.is_floating_point:
            sizes[dtype] += max(1, int(torch.Size(shape).numel()))
    return max(sizes, key=lambda dtype: sizes[dtype]) if sizes else None


def wide_tensors(model: Any, headers: Mapping[str, Header]) -> frozenset[str]:
    """Return the tensors that stay in float32 where others are written in 16 bit.

    Args:
        model: of transformers.
        headers: by the model's own names.

    Returns:
        Those stored wider than the rest; where all is float32, those that the class keeps so.
    """
    main = main_dtype(headers)
    if main is None:
        return frozenset()
    floats = {n: d for n, (_, d) in headers.items() if d.is_floating_point and d.itemsize >= 4}
    if main.itemsize >= 4:
        keeps = kept_by_class(model)
        return frozenset(name for name in floats if keeps(name))
    return frozenset(floats)


def kept_by_class(model: Any) -> Callable[[str], bool]:
    """Return what tells whether a model's class computes with a tensor in float32 always.

    Args:
        model: of transformers, whose classes list the modules that they never load in 16 bit.
    """
    entries = getattr(model, "_keep_in_fp32_modules_strict", None) or ()
    patterns = [re.compile(rf"(^|\.){re.escape(str(entry))}($|\.)") for entry in entries]
    return lambda name: any(pattern.search(name) for pattern in patterns)
