"""Weights packed once, for records and files: the bytes of each matrix by itself, and back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from autoround.core.grids.gguf_types import scheme_of_type
from autoround.core.rtn import quantize_matrix
from autoround.errors import FormatError, VerificationError
from autoround.formats.gguf.blocks import GgufTensor
from autoround.formats.gguf.tensors import nested_tensor
from autoround.formats.gptq.layout import GptqLayout
from autoround.formats.registry import layout_named
from autoround.formats.written import split
from autoround.session.block_output import BlockOutput
from autoround.session.packed_weights import (
    pack_codes,
    pack_output,
    pack_weights,
    packs_at_once,
    to_host,
    unpack_codes,
    unpack_weight,
)
from autoround.types import BlockResult, LayerPlan, OutputPlan, QuantizedTensor, Scheme

from ...tiny_quantized import nearest

#: Layouts, and bits and symmetry that each can hold.
CASES = [
    *(("gptq", bits, True) for bits in (2, 3, 4, 8)),
    *(("gptq_v2", bits, False) for bits in (2, 3, 4, 8)),
    ("auto_round:auto_gptq", 4, True),
    ("auto_round", 4, False),
    ("auto_round:auto_awq", 4, False),
    ("awq", 4, True),
    *(("pack-quantized", bits, sym) for bits in (3, 4, 8) for sym in (True, False)),
    *(("mlx", bits, False) for bits in (3, 4)),
]
ROWS, COLUMNS = 32, 64
EXPERTS = 3


def plan_of(scheme: Scheme, *, parts: int = 0, interleaved: bool = False) -> LayerPlan:
    """Plan a single layer, or with parts stacked experts whose matrices have ROWS rows."""
    if not parts:
        return LayerPlan("fc", (ROWS, COLUMNS), scheme)
    files = tuple(f"e.{{}}.{part}" for part in "ab"[:parts])
    shape = (EXPERTS * parts * ROWS, COLUMNS)
    return LayerPlan("fc", shape, scheme, experts=EXPERTS, files=files, interleaved=interleaved)


def weight_of(layer: LayerPlan) -> QuantizedTensor:
    assert layer.scheme is not None
    torch.manual_seed(0)
    weight = nearest(torch.randn(layer.shape), layer.scheme)
    # As targets have it that version 1 of GPTQ is written for.
    return replace(weight, zero=weight.zero.clamp(min=1)) if not layer.scheme.sym else weight


def same(left: QuantizedTensor, right: QuantizedTensor) -> bool:
    return left.scheme == right.scheme and all(
        torch.equal(getattr(left, part), getattr(right, part))
        and getattr(left, part).dtype == getattr(right, part).dtype
        for part in ("codes", "scale", "zero")
    )


@pytest.mark.parametrize("chunk", [0, 1])
@pytest.mark.parametrize(("parts", "interleaved"), [(0, False), (1, False), (2, False), (2, True)])
@pytest.mark.parametrize(("packing", "bits", "sym"), CASES)
def test_all_matrices_at_once_are_packed_as_each_by_itself(
    packing: str, bits: int, sym: bool, parts: int, interleaved: bool, chunk: int
) -> None:
    layer = plan_of(Scheme(bits, 32, sym), parts=parts, interleaved=interleaved)
    weight = weight_of(layer)
    (packed,) = pack_weights({"fc": weight}, {"fc": layer}, packing, chunk=chunk).values()
    assert packed.packing == packing
    for number, (_, matrix) in enumerate(split(layer, weight)):
        wanted = layout_named(packing).to_tensors(matrix)
        assert packed.tensors.keys() == wanted.keys()
        for part, tensor in wanted.items():
            ours = packed.tensors[part][number] if parts else packed.tensors[part]
            assert ours.is_contiguous()
            assert ours.dtype == tensor.dtype
            assert torch.equal(ours.view(torch.uint8), tensor.contiguous().view(torch.uint8))
    back = unpack_weight(packed)
    assert isinstance(back, QuantizedTensor)
    assert same(back, weight)
    assert back.codes.is_contiguous()


@pytest.mark.parametrize("parts", [0, 2])
@pytest.mark.parametrize("group", [0, -1])
def test_one_scale_a_tensor_or_a_row_comes_back_as_it_was(group: int, parts: int) -> None:
    layer = plan_of(Scheme(4, group, True), parts=parts)
    weight = weight_of(layer)
    assert weight.scale.shape[0] == (1 if group == 0 else layer.shape[0])
    (packed,) = pack_weights({"fc": weight}, {"fc": layer}, "gptq").values()
    back = unpack_weight(packed)
    assert isinstance(back, QuantizedTensor)
    assert same(back, weight)


@pytest.mark.parametrize("packing", ["gptq", "awq", "pack-quantized"])
@pytest.mark.parametrize("part", ["codes", "scale", "zero"])
def test_a_weight_that_does_not_come_back_is_named(
    packing: str, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = layout_named(packing)
    real: Any = type(layout).take_apart  # type: ignore[attr-defined]

    def wrong(*args: Any) -> QuantizedTensor:
        found = real(*args)
        changed = getattr(found, part).clone()
        changed[-1, -1] += 1
        return replace(found, **{part: changed})

    monkeypatch.setattr(type(layout), "take_apart", wrong)
    layer = plan_of(Scheme(4, 32, True))
    with pytest.raises(VerificationError, match=f"layer fc does not come back from {packing}"):
        pack_weights({"fc": weight_of(layer)}, {"fc": layer}, packing)


@pytest.mark.parametrize("value", [16, 17, 255])
@pytest.mark.parametrize("packing", ["gptq", "awq", "pack-quantized"])
def test_a_code_or_zero_point_that_does_not_fit_is_found(packing: str, value: int) -> None:
    layer = plan_of(Scheme(4, 32, False))
    weight = weight_of(layer)
    for part in ("codes", "zero"):
        changed = getattr(weight, part).clone()
        changed[3, 1] = value
        with pytest.raises((VerificationError, FormatError)):
            pack_weights({"fc": replace(weight, **{part: changed})}, {"fc": layer}, packing)
    codes = weight.codes.clone()
    codes[0, 0] = value
    with pytest.raises(ValueError, match=r"a code is outside 0 … 15"):
        pack_weights({"fc": replace(weight, codes=codes)}, {}, "")


def test_scales_that_are_no_numbers_are_found() -> None:
    layer = plan_of(Scheme(4, 32, True))
    weight = weight_of(layer)
    scale = weight.scale.clone()
    scale[0, 0] = float("nan")
    with pytest.raises(VerificationError, match="layer fc does not come back"):
        pack_weights({"fc": replace(weight, scale=scale)}, {"fc": layer}, "gptq")


@pytest.mark.parametrize("parts", [0, 2])
def test_a_zero_point_that_unpacks_all_the_same_is_found(parts: int) -> None:
    layer = plan_of(Scheme(4, 32, False), parts=parts)
    weight = weight_of(layer)
    zero = weight.zero.clone()
    zero[1, 1] = 0
    # Modulo 16 it comes back; programs that read version 1 do not take it so.
    with pytest.raises(FormatError, match="cannot hold a zero point of 0"):
        pack_weights({"fc": replace(weight, zero=zero)}, {"fc": layer}, "gptq")


def test_flags_of_all_layers_are_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    real = torch.stack

    def stack(tensors: list[Tensor], *args: Any, **named: Any) -> Tensor:
        reads.append(len(tensors))
        return real(tensors, *args, **named)

    monkeypatch.setattr(torch, "stack", stack)
    monkeypatch.setattr(GptqLayout, "to_tensors", None)
    scheme = Scheme(4, 32, True)
    layers = {name: replace(plan_of(scheme), name=name) for name in "abc"}
    made = pack_weights({n: weight_of(layer) for n, layer in layers.items()}, layers, "gptq")
    assert list(made) == list("abc")
    assert len(reads) == 1
    assert reads[0] >= 3 * 3


@pytest.mark.parametrize("packing", ["fake", "gguf:q4_k_m", ""])
def test_without_a_layout_of_its_own_codes_take_their_bits(packing: str) -> None:
    layer = plan_of(Scheme(3, 32, False), parts=2)
    weight = weight_of(layer)
    (packed,) = pack_weights({"fc": weight}, {"fc": layer}, packing).values()
    assert packed.packing == ""
    assert packed.tensors["codes"].numel() * 32 == weight.codes.numel() * 3
    back = unpack_weight(packed)
    assert isinstance(back, QuantizedTensor)
    assert same(back, weight)


@pytest.mark.parametrize("kind", ["q2_k", "q4_k", "q6_k", "q5_1"])
def test_super_blocks_have_codes_in_their_bits_in_any_layout(kind: str) -> None:
    codes, _, _, nested = quantize_matrix(torch.randn(3, 256), scheme_of_type(kind), search=False)
    assert nested is not None
    weight = nested_tensor(kind, codes, nested)
    (packed,) = pack_weights({"fc": weight}, {}, "gptq").values()
    back = unpack_weight(packed)
    assert isinstance(back, GgufTensor)
    assert back.kind == kind
    for part in ("codes", "scale", "sub_scale", "minimum", "sub_minimum"):
        ours, theirs = getattr(back, part), getattr(weight, part)
        assert (ours is None) == (theirs is None)
        assert ours is None or torch.equal(ours, theirs)


def test_which_layouts_are_packed_at_once() -> None:
    assert packs_at_once("auto_round:auto_gptq")
    assert packs_at_once("pack-quantized")
    assert not packs_at_once("fake")


def test_a_unit_keeps_its_weights_beside_what_is_packed() -> None:
    layer = plan_of(Scheme(4, 32, True))
    output = BlockOutput({"fc": weight_of(layer)}, {}, BlockResult(0, "b", 1.0, 0.5, 0.1, 1, 1, 0))
    packed = pack_output(output, {"fc": layer}, OutputPlan("auto_gptq", "gptq", "float16"))
    assert packed.layers is output.layers
    assert packed.packed["fc"].packing == "gptq"
    assert output.packed == {}


def test_what_is_on_the_host_is_not_copied() -> None:
    tensors = [torch.ones(3, dtype=torch.uint8), torch.ones(2, 2).half(), torch.ones(0)]
    assert all(ours is theirs for ours, theirs in zip(to_host(tensors), tensors, strict=True))


@pytest.mark.parametrize("shape", [(1,), (32,), (3, 11), (2, 3, 32), (64, 5), (0, 4)])
@pytest.mark.parametrize("bits", range(1, 9))
def test_codes_take_their_bits_and_no_more_than_a_last_word(
    bits: int, shape: tuple[int, ...]
) -> None:
    codes = torch.randint(0, 2**bits, shape, dtype=torch.uint8)
    words = pack_codes(codes, bits)
    assert words.numel() == -(-codes.numel() // 32) * bits
    assert torch.equal(unpack_codes(words, bits, shape=list(shape)), codes)
