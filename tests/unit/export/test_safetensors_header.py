from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from autoround.export.safetensors_header import METADATA, Part, make_header


def test_it_is_the_header_that_the_library_writes(tmp_path: Path) -> None:
    tensors = {
        "é": torch.ones(3, dtype=torch.uint8),
        "b": torch.ones((2, 2), dtype=torch.float16),
        "a": torch.ones((), dtype=torch.int64),
        "c": torch.ones((0, 4), dtype=torch.float16),
    }
    save_file(tensors, tmp_path / "theirs", metadata=METADATA)
    parts = {
        name: Part(t.dtype, tuple(t.shape), 0, t.numel() * t.element_size())
        for name, t in tensors.items()
    }
    order, header = make_header(parts, METADATA)
    # The widest first, so that all are aligned; then by name.
    assert order == ["a", "b", "c", "é"]
    theirs = (tmp_path / "theirs").read_bytes()
    assert theirs[: len(header)] == header
    assert len(theirs) - len(header) == 8 + 8 + 3
    assert len(header) % 8 == 0
