"""Checksums of tensors and files."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

#: Bytes copied at a time.
CHUNK = 16 << 20


def raw_bytes(tensor: Tensor) -> memoryview:
    """Return a tensor's bytes without a copy, where it lies on the CPU in one piece."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    array: Any = flat.view(torch.uint8).numpy()
    return memoryview(array)


def checksum(tensor: Tensor) -> int:
    """Return the CRC-32 of a tensor's bytes, with its dtype and shape."""
    head = f"{tensor.dtype} {tuple(tensor.shape)}".encode()
    return zlib.crc32(raw_bytes(tensor), zlib.crc32(head))


def checksum_of_all(tensors: Iterable[Tensor]) -> int:
    """Return one sum of tensors in their order; no more than one has to be in memory."""
    total = 0
    for tensor in tensors:
        total = (total * 31 + checksum(tensor)) % 2**61
    return total


def sum_of(tensors: Mapping[str, Tensor]) -> int:
    """Return a sum of tensors by their names' order."""
    return checksum_of_all(tensors[name] for name in sorted(tensors))
