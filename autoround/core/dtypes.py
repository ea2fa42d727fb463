"""The floating-point types of tensors by the names that recipes and configs give them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import torch

#: Shape and dtype of a tensor.
Header: TypeAlias = tuple[tuple[int, ...], torch.dtype]

DTYPES = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
}


def tensor_headers(named: Mapping[str, tuple[tuple[int, ...], str]]) -> dict[str, Header]:
    """Return headers with dtypes in place of their names.

    Args:
        named: shape and name of the dtype of tensors, by name.
    """
    return {name: (shape, getattr(torch, dtype)) for name, (shape, dtype) in named.items()}


def stored_headers(headers: Mapping[str, Header]) -> dict[str, tuple[tuple[int, ...], str]]:
    """Return headers with the names of dtypes in place of these.

    Args:
        headers: by name of the tensor.
    """
    return {
        name: (shape, str(dtype).removeprefix("torch.")) for name, (shape, dtype) in headers.items()
    }
