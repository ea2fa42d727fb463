"""Tensors here are tiny: threads would only wait for each other on a busy machine."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

# Without a GPU Triton's kernels run in its interpreter, which is chosen when Triton is imported:
# by whatever comes first, compiled blocks among it.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
