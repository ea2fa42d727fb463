"""Many small tensors as few long ones: a copy to or from a device is begun for each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

#: Bytes that are copied at a time.
COPY_BYTES = 1 << 28


def cut_portions(tensors: Sequence[Tensor], *, most: int = COPY_BYTES) -> list[list[int]]:
    """Return which tensors are joined with each other.

    Args:
        tensors: of any dtypes and shapes.
        most: bytes of a portion, unless one tensor has more.

    Returns:
        The numbers of all tensors, in portions. Larger elements come first: each tensor then begins
        at a multiple of its own size.
    """
    portions: list[list[int]] = []
    total = 0
    for n in sorted(range(len(tensors)), key=lambda n: (-tensors[n].element_size(), n)):
        size = tensors[n].numel() * tensors[n].element_size()
        if not portions or total + size > most:
            portions.append([])
            total = 0
        portions[-1].append(n)
        total += size
    return portions


def join_tensors(tensors: Sequence[Tensor]) -> Tensor:
    """Return the bytes of tensors, one after the other.

    Args:
        tensors: at least one, on one device; a portion of :func:`cut_portions`.

    Returns:
        uint8 [bytes]; of a single tensor its own memory.
    """
    parts = [tensor.reshape(-1).view(torch.uint8) for tensor in tensors]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def split_tensors(
    joined: Tensor, headers: Sequence[tuple[Sequence[int], torch.dtype]]
) -> list[Tensor]:
    """Undo :func:`join_tensors`.

    Args:
        joined: uint8 [bytes], on any device.
        headers: shape and dtype of each tensor.

    Returns:
        The tensors, views of it.
    """
    tensors: list[Tensor] = []
    start = 0
    for shape, dtype in headers:
        end = start + torch.Size(shape).numel() * dtype.itemsize
        tensors.append(joined[start:end].view(dtype).reshape(tuple(shape)))
        start = end
    return tensors
