"""What goes into a GGUF file, tensor by tensor, read again by llama.cpp's own package."""

from __future__ import annotations

from typing import Any

import gguf
import numpy as np
import pytest
import torch
from torch import Tensor

from autoround.core.grids.gguf_types import GGUF_TYPES, scheme_of_type
from autoround.errors import VerificationError
from autoround.export.gguf_writer import file_name, pack_checked, round_rows, to_block_bytes
from autoround.formats.gguf import blocks
from autoround.formats.gguf.blocks import GgufTensor
from autoround.gguf.arch import Target
from autoround.types import OutputPlan, QuantizedTensor, Scheme

from ...tiny_quantized import nearest

WEIGHT = torch.randn(8, 256, generator=torch.Generator().manual_seed(0))
Q8 = Scheme(8, 32, True)


def read(data: Tensor, kind: str) -> Tensor:
    """Unpack bytes by llama.cpp's package."""
    number = gguf.GGMLQuantizationType[kind.upper()]
    return torch.from_numpy(np.array(gguf.quants.dequantize(data.numpy(), number)))


def target(shape: tuple[int, ...] = (8, 256), **others: Any) -> Target:
    return Target("blk.0.x.weight", ("x",), shape, **others)


@pytest.mark.parametrize("kind", GGUF_TYPES)
def test_rows_are_rounded_as_near_as_their_bits_allow(kind: str) -> None:
    layer = round_rows(WEIGHT, kind)
    assert layer.kind == kind
    back = read(pack_checked(layer, "x"), kind)
    error = float((back - WEIGHT).norm() / WEIGHT.norm())
    assert error < 0.6 / 2 ** GGUF_TYPES[kind].bits * 3
    # Searched scales are nearer than those that span the whole range.
    scheme = scheme_of_type(kind)
    if scheme.kind == "int" and scheme.bits == 4:
        plain = nearest(WEIGHT, scheme)
        spread = plain.codes.float() - plain.zero.repeat_interleave(32, 1).float()
        whole = spread * plain.scale.float().repeat_interleave(32, 1)
        assert error < float((whole - WEIGHT).norm() / WEIGHT.norm())


@pytest.mark.parametrize("kind", ["q4_k", "q8_0"])
def test_a_weight_of_any_size_is_rounded_row_by_row(kind: str) -> None:
    whole = to_block_bytes(target(), kind, [WEIGHT])
    rows = [to_block_bytes(target((1, 256)), kind, [row[None]]) for row in WEIGHT]
    assert torch.equal(whole, torch.cat(rows))


@pytest.mark.parametrize(("kind", "dtype"), [("f16", torch.float16), ("f32", torch.float32)])
def test_what_is_not_quantized_is_plain_numbers(kind: str, dtype: torch.dtype) -> None:
    data = to_block_bytes(target((256, 8), transform="transpose"), kind, [WEIGHT])
    assert data.is_contiguous()
    assert torch.equal(data, WEIGHT.t().to(dtype))


def test_a_tuned_layer_keeps_its_codes() -> None:
    layer = nearest(WEIGHT, Q8)
    data = to_block_bytes(target(), "q8_0", [layer])
    codes = layer.codes.float() - 128
    wanted = codes * layer.scale.float().repeat_interleave(32, 1)
    assert torch.equal(read(data, "q8_0"), wanted)


@pytest.mark.parametrize("tuned", [True, False])
def test_rows_of_a_permuted_tensor_are_in_the_order_of_the_file(tuned: bool) -> None:
    """llama.cpp turns neighbours of a head, transformers its halves."""
    held: Any = nearest(WEIGHT, Q8) if tuned else WEIGHT
    data = to_block_bytes(target(transform="permute", heads=2), "q8_0", [held])
    plain = read(to_block_bytes(target(), "q8_0", [held]), "q8_0")
    order = [0, 2, 1, 3, 4, 6, 5, 7]
    assert torch.equal(read(data, "q8_0"), plain[order])


@pytest.mark.parametrize("part", ["first_half", "second_half"])
@pytest.mark.parametrize("tuned", [True, False])
def test_halves_of_stacked_experts_are_those_of_each_expert(part: Any, tuned: bool) -> None:
    half = target((2, 2, 256), transform=part)
    layer = nearest(WEIGHT, Q8)
    held: Any = layer if tuned else WEIGHT.reshape(2, 4, 256)
    data = read(to_block_bytes(half, "q8_0", [held]).reshape(4, -1), "q8_0")
    plain = read(to_block_bytes(target(), "q8_0", [layer if tuned else WEIGHT]), "q8_0")
    rows = [0, 1, 4, 5] if part == "first_half" else [2, 3, 6, 7]
    assert torch.equal(data.reshape(4, 256), plain[rows])


@pytest.mark.parametrize("part", ["codes", "scale", "sub_scale", "minimum", "sub_minimum"])
def test_bytes_that_do_not_come_back_are_told(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    layer, real = round_rows(WEIGHT, "q4_k"), blocks.unpack

    def wrong(data: Tensor, kind: str) -> GgufTensor:
        found = real(data, kind)
        changed = getattr(found, part).clone()
        changed[3, 0] += 1
        return replace(found, **{part: changed})

    pack_checked(layer, "x")
    monkeypatch.setattr(blocks, "unpack", wrong)
    with pytest.raises(VerificationError, match=f"tensor blk.7: its {part} do not come back"):
        pack_checked(layer, "blk.7")


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("meta-llama/Llama-3.1-8B", "Llama-3.1-8B-Q4_K_M.gguf"),
        ("/models/my model (v2)/", "my-model-v2-Q4_K_M.gguf"),
        ("../...", "model-Q4_K_M.gguf"),
        ("ünïcode", "n-code-Q4_K_M.gguf"),
        ("", "model-Q4_K_M.gguf"),
    ],
)
def test_the_file_is_named_by_model_and_type(model: str, name: str) -> None:
    part = OutputPlan("gguf:q4_k_m", "gguf:q4_k_m", "float32")
    assert file_name(model, part) == name
    mixed = OutputPlan("gguf:q4_k_m", "gguf:q4_k_m", "float32", types=(("a", "q8_0"),))
    assert file_name(model, mixed) == name.replace("Q4_K_M", "Q4_K_M-MIXED")


def test_a_plain_layer_without_a_name_among_types_gets_that_of_the_tensor() -> None:
    layer = nearest(WEIGHT, Scheme(4, 32, True))
    assert isinstance(layer, QuantizedTensor)
    data = to_block_bytes(target(), "q4_0", [layer])
    wanted = (layer.codes.float() - 8) * layer.scale.float().repeat_interleave(32, 1)
    assert torch.equal(read(data, "q4_0"), wanted)
