"""What is in a GGUF file is told from its header alone."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from autoround.checkpoints.inspect_gguf import inspect_gguf
from autoround.errors import FormatError

TENSORS = {
    "token_embd.weight": ((16, 64), "F16"),
    "output.weight": ((16, 64), "Q8_0"),
    "blk.0.attn_q.weight": ((32, 64), "Q4_0"),
    "blk.1.attn_q.weight": ((32, 64), "Q4_0"),
    "blk.0.ffn_gate_inp.weight": ((4, 64), "F32"),
    "blk.0.attn_norm.weight": ((64,), "F32"),
}


def write(path: Path, *, arch: str = "llama") -> Path:
    writer = gguf.GGUFWriter(path, arch)
    for name, (shape, kind) in TENSORS.items():
        data = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        number = gguf.GGMLQuantizationType[kind]
        writer.add_tensor(name, gguf.quants.quantize(data, number), raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_tensors_are_counted_by_type_and_what_is_kept_by_its_role(tmp_path: Path) -> None:
    found = inspect_gguf(write(tmp_path / "a.gguf"))
    assert (found.method, found.architecture) == ("gguf", "llama")
    quantized = {part.what: (part.count, part.weights, part.size) for part in found.quantized}
    assert quantized == {
        "Q8_0": (1, 16 * 64, 16 * 64 // 32 * 34),
        "Q4_0": (2, 2 * 32 * 64, 2 * 32 * 64 // 32 * 18),
    }
    assert {part.what: part.size for part in found.kept} == {
        "embeddings, F16": 16 * 64 * 2,
        "norms and biases, F32": 64 * 4,
        "other matrices, F32": 4 * 64 * 4,
    }
    assert found.layers == {
        name: kind for name, (_, kind) in TENSORS.items() if kind.startswith("Q")
    }
    assert [part.bits_per_weight for part in found.quantized] == [8.5, 4.5]


@pytest.mark.parametrize("size", [0, 10, 100])
def test_a_file_that_is_damaged_is_refused(size: int, tmp_path: Path) -> None:
    path = write(tmp_path / "a.gguf")
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(FormatError):
        inspect_gguf(path)
