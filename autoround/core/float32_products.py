"""What products of float32 are computed from: all of their digits, or shorter numbers (TF32).

torch has two switches for it, an older one for the process and newer ones for each kind of device.
Where the newer were set, the older refuses to be read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

#: Words of the older switch, and what the newer ones call them.
EXACT, SHORT = "highest", "high"
_NEWER = {EXACT: "ieee", SHORT: "tf32"}


@contextmanager
def float32_products(precision: str, device: torch.device) -> Iterator[None]:
    """Compute products of float32 as told, whatever the user's switches say, and put those back.

    Args:
        precision: EXACT or SHORT.
        device: that the products are on.
    """
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:
        with _newer_switch(_NEWER[precision], device):
            yield
        return
    # Setting what is set already would still count as having used the older switch.
    if before == precision:
        yield
        return
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def _newer_switch(precision: str, device: torch.device) -> Iterator[None]:
    """Set the switch of one kind of device; those without their own go by that of the host."""
    kind: Any = getattr(torch.backends, device.type, None)
    host: Any = torch.backends.mkldnn
    switch = kind.matmul if hasattr(kind, "matmul") else host.matmul
    before = switch.fp32_precision
    switch.fp32_precision = precision
    try:
        yield
    finally:
        switch.fp32_precision = before
