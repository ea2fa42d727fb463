"""The floating-point types of tensors by the names that recipes and configs give them."""

from __future__ import annotations

import torch

DTYPES = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
}
