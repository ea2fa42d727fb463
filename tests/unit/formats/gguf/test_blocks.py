"""Blocks of GGUF under drawn values and drawn bytes, and what packing refuses."""

from __future__ import annotations

import dataclasses

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from autoround.core.grids.gguf_types import GGUF_TYPES
from autoround.errors import FormatError
from autoround.formats.gguf import blocks as gguf_layout
from autoround.formats.gguf.blocks import (
    GgufTensor,
    bytes_per_row,
    dequantize,
    pack,
    unpack,
    why_not,
)

many = settings(max_examples=100, deadline=None, derandomize=True)
names = st.sampled_from(tuple(GGUF_TYPES))
PARTS = ("codes", "scale", "sub_scale", "minimum", "sub_minimum")
#: Zeros of both signs, the smallest, ordinary and largest numbers that float16 has.
HALVES = (0.0, -0.0, 6e-8, -6e-8, 6.1e-5, 0.013, -0.7, 1.0, 65504.0, -65504.0)
#: Where a block of each type keeps its float16 numbers.
HALF_AT = {"q2_k": (80, 82), "q3_k": (108,), "q4_k": (0, 2), "q5_k": (0, 2), "q6_k": (208,)}


def drawn(name: str, *, seed: int, rows: int = 3, blocks: int = 2, edges: int = 0) -> GgufTensor:
    """Draw every part; ``edges`` in a hundred of the integers are an end of their range."""
    kind, rng = GGUF_TYPES[name], np.random.default_rng(seed)

    def integers(low: int, high: int, columns: int, dtype: type) -> Tensor:
        values = rng.integers(low, high + 1, (rows, columns))
        ends = rng.choice((low, high), values.shape)
        at_end = rng.integers(0, 100, values.shape) < edges
        return torch.from_numpy(np.where(at_end, ends, values).astype(dtype))

    def halves() -> Tensor:
        return torch.from_numpy(rng.choice(HALVES, (rows, blocks)).astype(np.float16))

    codes = integers(0, 2**kind.bits - 1, blocks * kind.block, np.uint8)
    minimum = None if kind.sym else halves()
    if kind.sub_range is None:
        return GgufTensor(name, codes, halves(), None, minimum)
    groups = blocks * kind.block // kind.group
    sub = integers(*kind.sub_range, groups, np.int8)
    least = None if kind.sym else integers(*kind.sub_range, groups, np.int8)
    return GgufTensor(name, codes, halves(), sub, minimum, least)


def parts_of(layer: GgufTensor) -> dict[str, Tensor]:
    found = {part: getattr(layer, part) for part in PARTS}
    return {part: held for part, held in found.items() if held is not None}


def bits(values: Tensor) -> Tensor:
    """Return what tells -0.0 from 0.0."""
    return values.view({2: torch.int16, 4: torch.int32}.get(values.itemsize, values.dtype))


def assert_same(one: GgufTensor, other: GgufTensor) -> None:
    ours, theirs = parts_of(one), parts_of(other)
    assert one.kind == other.kind
    assert ours.keys() == theirs.keys()
    for part, held in ours.items():
        assert held.dtype == theirs[part].dtype
        assert torch.equal(bits(held), bits(theirs[part])), part


def assert_read_alike(data: Tensor, name: str) -> None:
    theirs = torch.from_numpy(gguf.quants.dequantize(data.numpy(), Type[name.upper()]))
    ours = dequantize(unpack(data, name))
    assert ours.dtype == torch.float32
    assert torch.equal(bits(ours), bits(theirs))


@many
@given(
    name=names,
    seed=st.integers(0, 2**31),
    rows=st.integers(1, 4),
    blocks=st.integers(1, 3),
    edges=st.sampled_from((0, 50, 100)),
)
def test_drawn_parts_are_read_alike_and_come_back(
    name: str, seed: int, rows: int, blocks: int, edges: int
) -> None:
    layer = drawn(name, seed=seed, rows=rows, blocks=blocks, edges=edges)
    data = pack(layer)
    assert data.dtype == torch.uint8
    assert data.shape == (rows, bytes_per_row(name, layer.codes.shape[1]))
    assert data.is_contiguous()
    assert_same(unpack(data, name), layer)
    assert_read_alike(data, name)


@many
@given(name=st.sampled_from(tuple(HALF_AT)), seed=st.integers(0, 2**31))
def test_any_bytes_of_k_quants_with_finite_scales_are_read_alike(name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (3, 2, GGUF_TYPES[name].bytes), dtype=np.uint8)
    for start in HALF_AT[name]:
        scale = rng.choice(HALVES, (3, 2, 1)).astype(np.float16)
        blocks[:, :, start : start + 2] = scale.view(np.uint8)
    data = torch.from_numpy(blocks.reshape(3, -1))
    assert torch.equal(pack(unpack(data, name)), data)
    assert_read_alike(data, name)


@many
@given(
    name=st.sampled_from(("q4_0", "q4_1", "q5_0", "q5_1", "q8_0")),
    seed=st.integers(0, 2**31),
    size=st.sampled_from((1e-6, 0.02, 3e3)),
)
def test_what_the_package_quantizes_packs_to_its_bytes(name: str, seed: int, size: float) -> None:
    weights = np.random.default_rng(seed).normal(size=(3, 96)).astype(np.float32) * size
    data = torch.from_numpy(gguf.quants.quantize(weights, Type[name.upper()]))
    assert torch.equal(pack(unpack(data, name)), data)
    assert_read_alike(data, name)


def test_a_bit_of_every_field_lies_where_the_format_says() -> None:
    # By hand from the layout, so that packing and unpacking cannot be wrong together.
    def one_byte(name: str, part: str, index: int, value: int, base: int = 0) -> dict[int, int]:
        layer = drawn(name, seed=0, rows=1, blocks=1)
        parts = {key: torch.full_like(held, 0) for key, held in parts_of(layer).items()}
        parts[part].fill_(base)
        before = pack(GgufTensor(name, **parts))[0].int()
        parts[part][0, index] = value
        changed = pack(GgufTensor(name, **parts))[0].int() ^ before
        return {int(at): int(changed[at]) for at in changed.nonzero()}

    assert one_byte("q4_0", "codes", 17, 9) == {2 + 1: 0x90}
    assert one_byte("q5_0", "codes", 20, 16) == {2 + 2: 0x10}
    assert one_byte("q5_1", "codes", 3, 31) == {4: 0x08, 8 + 3: 0x0F}
    assert one_byte("q8_0", "codes", 31, 255, base=128) == {2 + 31: 127}
    assert one_byte("q2_k", "codes", 128 + 32 * 2 + 5, 3) == {16 + 32 + 5: 0x30}
    assert one_byte("q2_k", "sub_minimum", 7, 15) == {7: 0xF0}
    assert one_byte("q3_k", "codes", 32 * 6 + 1, 4) == {1: 0x40}
    assert one_byte("q3_k", "sub_scale", 13, 31, base=-32) == {96 + 5: 0xF0, 104 + 1: 0xC0}
    assert one_byte("q4_k", "sub_scale", 6, 63) == {4 + 2: 0xC0, 12 + 2: 0x0F}
    assert one_byte("q4_k", "sub_minimum", 6, 63) == {8 + 2: 0xC0, 12 + 2: 0xF0}
    assert one_byte("q5_k", "codes", 32 * 3 + 4, 31) == {16 + 4: 0x08, 48 + 32 + 4: 0xF0}
    assert one_byte("q6_k", "codes", 128 + 32 * 3 + 2, 63) == {
        64 + 32 + 2: 0xF0,
        128 + 32 + 2: 0xC0,
    }
    assert one_byte("q6_k", "sub_scale", 15, -1) == {192 + 15: 0xFF}


@pytest.mark.parametrize("name", GGUF_TYPES)
def test_meta_tensors_give_the_shapes_of_real_ones(name: str) -> None:
    layer = drawn(name, seed=1)
    data = pack(layer)
    parts = {part: held.to("meta") for part, held in parts_of(layer).items()}
    empty = pack(GgufTensor(name, **parts))
    assert empty.is_meta
    assert (empty.shape, empty.dtype) == (data.shape, data.dtype)
    back = parts_of(unpack(empty, name))
    assert {part: (held.shape, held.dtype) for part, held in back.items()} == {
        part: (held.shape, held.dtype) for part, held in parts.items()
    }
    assert dequantize(GgufTensor(name, **parts)).shape == layer.codes.shape


@pytest.mark.parametrize("name", GGUF_TYPES)
def test_chunks_join_without_a_seam(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = drawn(name, seed=2, rows=7)
    whole = pack(layer)
    # Two rows a chunk, so that the last one is short; then less than one row.
    for weights in (2 * layer.codes.shape[1], 1):
        monkeypatch.setattr(gguf_layout, "CHUNK_WEIGHTS", weights)
        assert torch.equal(pack(layer), whole)
        assert_same(unpack(whole, name), layer)


@pytest.mark.parametrize("name", GGUF_TYPES)
def test_bytes_may_lie_anywhere_and_are_not_shared(name: str) -> None:
    layer = drawn(name, seed=3, rows=1, blocks=1)
    data = pack(layer)
    shifted = torch.zeros(data.numel() + 1, dtype=torch.uint8)[1:].reshape(1, -1)
    shifted.copy_(data)
    back = unpack(shifted, name)
    shifted.zero_()
    assert_same(back, layer)


@pytest.mark.parametrize("name", GGUF_TYPES)
@pytest.mark.parametrize("rows", [1, 4])
def test_parts_may_be_views(name: str, rows: int) -> None:
    layer = drawn(name, seed=4, rows=rows, blocks=1)
    views = {
        part: torch.stack((held, held), dim=-1)[..., 0].t().contiguous().t()
        for part, held in parts_of(layer).items()
    }
    assert torch.equal(pack(GgufTensor(name, **views)), pack(layer))
    assert torch.equal(dequantize(GgufTensor(name, **views)), dequantize(layer))


@pytest.mark.parametrize("name", GGUF_TYPES)
def test_no_rows_are_no_bytes(name: str) -> None:
    layer = drawn(name, seed=5, rows=0)
    data = pack(layer)
    assert data.shape == (0, bytes_per_row(name, layer.codes.shape[1]))
    assert_same(unpack(data, name), layer)
    assert dequantize(layer).shape == layer.codes.shape


def test_minima_of_unsigned_bytes_are_the_same() -> None:
    layer = drawn("q4_k", seed=6)
    assert layer.sub_minimum is not None
    other = dataclasses.replace(layer, sub_minimum=layer.sub_minimum.to(torch.uint8))
    assert torch.equal(pack(other), pack(layer))
    assert torch.equal(dequantize(other), dequantize(layer))


@pytest.mark.parametrize("name", [name for name in GGUF_TYPES if GGUF_TYPES[name].bits < 8])
def test_codes_that_would_spill_into_others_are_refused(name: str) -> None:
    layer = drawn(name, seed=7)
    layer.codes[1, 2] = top = 2 ** GGUF_TYPES[name].bits
    with pytest.raises(FormatError, match=f"{name}: codes .* {top}; legal: 0 … {top - 1}"):
        pack(layer)


@pytest.mark.parametrize("part", ["sub_scale", "sub_minimum"])
@pytest.mark.parametrize("name", ["q2_k", "q3_k", "q4_k", "q5_k"])
def test_sub_scales_out_of_range_are_refused(name: str, part: str) -> None:
    sub_range = GGUF_TYPES[name].sub_range
    assert sub_range is not None
    for value in (sub_range[0] - 1, sub_range[1] + 1):
        parts = parts_of(drawn(name, seed=8))
        if part in parts:
            parts[part][2, 1] = value
            with pytest.raises(FormatError, match=f"{name}: {part} go from"):
                pack(GgufTensor(name, **parts))


@pytest.mark.parametrize("part", PARTS)
def test_parts_of_another_dtype_or_shape_are_refused(part: str) -> None:
    parts = parts_of(drawn("q4_k", seed=9, rows=3, blocks=2))
    held = parts[part]
    # A transposed part has as many values; bfloat16 as many bytes.
    wide = torch.bfloat16 if held.is_floating_point() else torch.int64
    for wrong in (held.to(wide), held.t(), held[0], held[:, :-1]):
        layer = GgufTensor("q4_k", **{**parts, part: wrong})
        for act in (pack, dequantize):
            with pytest.raises(FormatError, match="q4_k"):
                act(layer)


def test_parts_that_a_type_lacks_are_refused() -> None:
    layer = drawn("q4_0", seed=10)
    with pytest.raises(FormatError, match="q4_0: has no minimum"):
        pack(dataclasses.replace(layer, minimum=layer.scale))
    missing = dataclasses.replace(drawn("q3_k", seed=10), sub_scale=None)
    with pytest.raises(FormatError, match="q3_k: sub_scale should be int8 .*, not nothing"):
        dequantize(missing)


@pytest.mark.parametrize("name", GGUF_TYPES)
def test_data_that_are_no_blocks_are_refused(name: str) -> None:
    data = pack(drawn(name, seed=11))
    with pytest.raises(FormatError, match="no multiple"):
        unpack(data[:, :-1], name)
    for wrong in (data[0], data.to(torch.int8)):
        with pytest.raises(FormatError, match=f"{name}: blocks are uint8"):
            unpack(wrong, name)
    with pytest.raises(FormatError, match="no multiple"):
        bytes_per_row(name, GGUF_TYPES[name].block + 16)
    assert why_not(3 * GGUF_TYPES[name].block, name) == ""


def test_an_unknown_type_is_refused_everywhere() -> None:
    layer = dataclasses.replace(drawn("q4_0", seed=12), kind="q4_9")
    for act in (pack, dequantize):
        with pytest.raises(FormatError, match="'q4_9'; legal: q4_0"):
            act(layer)
