"""compressed-tensors: golden words, round trips, and what its own library makes of them."""

# Tests: autoround/formats/compressed_tensors/tensors.py
from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from autoround.core.rounding import dense_weight
from autoround.errors import FormatError
from autoround.formats.compressed_tensors import config as compressed
from autoround.formats.compressed_tensors.layout import PACK_QUANTIZED
from autoround.formats.compressed_tensors.reading import packed_layers
from autoround.types import (
    LEGAL_BITS,
    PER_CHANNEL,
    PER_TENSOR,
    BlockPlan,
    LayerPlan,
    OutputPlan,
    Plan,
    QuantizedTensor,
    Scheme,
)

from ....bit_stream import stream_values, stream_words
from ....clients import needs_library
from ....tiny_quantized import make_plan, nearest


def layer_of(
    scheme: Scheme, *, seed: int = 0, shape: tuple[int, int] = (64, 96)
) -> QuantizedTensor:
    return nearest(torch.randn(shape, generator=torch.Generator().manual_seed(seed)), scheme)


def plan_of(**schemes: Scheme | None) -> Plan:
    layers = tuple(
        LayerPlan(f"model.layers.0.{name}", (64, 96), scheme) for name, scheme in schemes.items()
    )
    return Plan(
        model="m",
        architecture="A",
        blocks=(BlockPlan(0, "model.layers.0", layers),),
        kept=(LayerPlan("lm_head", (64, 64), None, "kept"),),
        recipe={},
        outputs=(OutputPlan("compressed-tensors", PACK_QUANTIZED.name, "float16"),),
        dtype="float16",
        device="cpu",
        calibration="",
    )


def meta(layer: QuantizedTensor) -> QuantizedTensor:
    codes, scale, zero = (part.to("meta") for part in (layer.codes, layer.scale, layer.zero))
    return QuantizedTensor(codes, scale, zero, layer.scheme)


#: Layers of every width; their rows and columns fill words or do not, with any number of groups.
many = settings(max_examples=120, deadline=None, derandomize=True)
grouped = st.tuples(
    st.sampled_from(LEGAL_BITS), st.integers(1, 70), st.integers(1, 7), st.integers(1, 40)
)


def drawn(bits: int, rows: int, groups: int, size: int, *, sym: bool, seed: int) -> QuantizedTensor:
    """Draw codes, scales and zero points, with both ends of the levels."""
    draw = np.random.default_rng(seed)
    top = 2**bits
    codes = draw.integers(0, top, (rows, groups * size), dtype=np.uint8)
    codes[0, 0], codes[-1, -1] = 0, top - 1
    scale = draw.normal(size=(rows, groups)).astype(np.float16)
    zero = draw.integers(0, top, (rows, groups), dtype=np.uint8)
    if sym:
        zero = np.full_like(zero, top // 2)
    parts = (torch.from_numpy(x) for x in (codes, scale, zero))
    return QuantizedTensor(*parts, Scheme(bits, size, sym))


@many
@given(shape=grouped, sym=st.booleans(), seed=st.integers(0, 2**31))
def test_tensors_are_those_of_a_bit_stream_and_come_back(
    shape: tuple[int, int, int, int], sym: bool, seed: int
) -> None:
    layer = drawn(*shape, sym=sym, seed=seed)
    bits, (rows, columns) = layer.scheme.bits, layer.codes.shape
    tensors = PACK_QUANTIZED.to_tensors(layer)
    assert ("weight_zero_point" in tensors) is not sym
    assert tensors["weight_shape"].tolist() == [rows, columns]
    assert torch.equal(tensors["weight_scale"], layer.scale)
    packed = tensors["weight_packed"].numpy()
    np.testing.assert_array_equal(packed, stream_words(layer.codes.numpy(), bits))
    np.testing.assert_array_equal(stream_values(packed, bits, columns), layer.codes.numpy())
    if not sym:
        # Zero points run along the outputs.
        zeros = tensors["weight_zero_point"].numpy()
        np.testing.assert_array_equal(zeros.T, stream_words(layer.zero.numpy().T, bits))
    back = PACK_QUANTIZED.from_tensors(tensors, layer.scheme, name="a")
    assert torch.equal(back.codes, layer.codes)
    assert torch.equal(back.scale, layer.scale)
    assert torch.equal(back.zero, layer.zero)
    assert back.scheme == layer.scheme


@many
@given(shape=grouped, sym=st.booleans())
def test_headers_tell_the_shapes_of_groups(shape: tuple[int, int, int, int], sym: bool) -> None:
    layer = drawn(*shape, sym=sym, seed=1)
    real, empty = PACK_QUANTIZED.to_tensors(layer), PACK_QUANTIZED.to_tensors(meta(layer))
    assert real.keys() == empty.keys()
    for part, tensor in empty.items():
        assert tensor.is_meta
        assert (tensor.shape, tensor.dtype) == (real[part].shape, real[part].dtype)
    back = PACK_QUANTIZED.from_tensors(empty, layer.scheme, name="a")
    assert back.codes.shape == layer.codes.shape
    assert back.zero.shape == layer.zero.shape


@pytest.mark.parametrize("bits", LEGAL_BITS)
@pytest.mark.parametrize("columns", [32, 33, 50, 96])
@pytest.mark.parametrize("size", [PER_CHANNEL, PER_TENSOR])
@pytest.mark.parametrize("sym", [True, False])
def test_one_scale_a_row_is_read_by_the_shape_that_is_told(
    bits: int, columns: int, size: int, sym: bool
) -> None:
    scheme = Scheme(bits, size, sym)
    layer = layer_of(scheme, shape=(37, columns))
    tensors = PACK_QUANTIZED.to_tensors(layer)
    packed = tensors["weight_packed"].numpy()
    np.testing.assert_array_equal(packed, stream_words(layer.codes.numpy(), bits))
    back = PACK_QUANTIZED.from_tensors(tensors, scheme, name="a")
    assert torch.equal(back.codes, layer.codes)
    assert torch.equal(back.scale, layer.scale.expand(37, -1))
    assert torch.equal(back.zero, layer.zero.expand(37, -1))
    # Headers do not tell, so only rows that end with a word are written by a run.
    fills = columns * bits % 32 == 0
    assert (PACK_QUANTIZED.why_not((37, columns), scheme) == "") is fills
    empty = {part: tensor.to("meta") for part, tensor in tensors.items()}
    if fills:
        assert PACK_QUANTIZED.from_tensors(empty, scheme, name="a").codes.shape == (37, columns)
    elif packed.shape[1] * 32 % bits:
        with pytest.raises(FormatError, match="layer a: rows of .* end inside a word"):
            PACK_QUANTIZED.from_tensors(empty, scheme, name="a")


def test_what_is_held_depends_on_groups_alone() -> None:
    for bits in LEGAL_BITS:
        assert PACK_QUANTIZED.illegal(Scheme(bits, 32, False)) == ""
        assert PACK_QUANTIZED.why_not((37, 50), Scheme(bits, 10, False)) == ""
        assert "not a multiple of the group size 16" in PACK_QUANTIZED.why_not(
            (64, 50), Scheme(bits, 16, True)
        )
    assert PACK_QUANTIZED.illegal(Scheme(9, 32, True)) == "it holds 2 to 8 bits, not 9"
    assert "its rows of 33 values of 3 bits end inside a word" in PACK_QUANTIZED.why_not(
        (64, 33), Scheme(3, PER_CHANNEL, True)
    )


def test_a_width_that_no_grid_has_is_refused_both_ways() -> None:
    layer = layer_of(Scheme(4, 32, True))
    wrong = replace(layer, scheme=Scheme(9, 32, True))
    with pytest.raises(FormatError, match="cannot hold W9 g32 sym: it holds 2 to 8 bits"):
        PACK_QUANTIZED.to_tensors(wrong)
    tensors = PACK_QUANTIZED.to_tensors(layer)
    with pytest.raises(FormatError, match="layer a: it holds 2 to 8 bits, not 9"):
        PACK_QUANTIZED.from_tensors(tensors, wrong.scheme, name="a")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight_shape": torch.tensor([64, 95])}, "weight_shape says"),
        ({"weight_shape": torch.tensor([64])}, "expected two integers"),
        ({"weight_shape": torch.tensor([64.0, 96.0])}, "expected two integers"),
        ({"weight_packed": torch.zeros(64, 8, dtype=torch.int32)}, "does not hold 96 values of 3"),
        ({"weight_scale": torch.ones(64, 2).half()}, "does not hold 64 values of 3"),
        ({"weight_scale": torch.ones(63, 3).half()}, "do not fit a weight of 64 x 96"),
        ({"weight_zero_point": torch.zeros(5, 3, dtype=torch.int32)}, "does not hold 64 values"),
        ({"weight_zero_point": torch.zeros(6, 2, dtype=torch.int32)}, "do not fit a weight"),
    ],
)
def test_tensors_that_do_not_fit_each_other_are_refused(
    change: dict[str, Tensor], message: str
) -> None:
    layer = layer_of(Scheme(3, 32, False))
    tensors = {**PACK_QUANTIZED.to_tensors(layer), **change}
    with pytest.raises(FormatError, match=f"layer a: .*{message}"):
        PACK_QUANTIZED.from_tensors(tensors, layer.scheme, name="a")


def test_another_width_than_the_files_have_is_refused() -> None:
    tensors = PACK_QUANTIZED.to_tensors(layer_of(Scheme(3, 32, True)))
    for bits in (2, 4, 5, 8):
        with pytest.raises(FormatError, match="layer a: weight_packed"):
            PACK_QUANTIZED.from_tensors(tensors, Scheme(bits, 32, True), name="a")
    channel = PACK_QUANTIZED.to_tensors(layer_of(Scheme(3, PER_CHANNEL, True)))
    for bits in (2, 4, 5, 8):
        with pytest.raises(FormatError, match="layer a: weight_packed"):
            PACK_QUANTIZED.from_tensors(channel, Scheme(bits, PER_CHANNEL, True), name="a")


def test_golden_words() -> None:
    codes = (torch.arange(32) % 16).expand(32, 32).to(torch.uint8)
    zero = torch.full((32, 1), 9, dtype=torch.uint8)
    layer = QuantizedTensor(codes, torch.ones(32, 1).half(), zero, Scheme(4, PER_CHANNEL, False))
    tensors = PACK_QUANTIZED.to_tensors(layer)
    assert [int(w) & 0xFFFFFFFF for w in tensors["weight_packed"][5]] == [
        0x76543210,
        0xFEDCBA98,
        0x76543210,
        0xFEDCBA98,
    ]
    assert [int(w) & 0xFFFFFFFF for w in tensors["weight_zero_point"][:, 0]] == [0x99999999] * 4
    assert tensors["weight_shape"].tolist() == [32, 32]


@pytest.mark.parametrize("bits", LEGAL_BITS)
@pytest.mark.parametrize("sym", [True, False])
@pytest.mark.parametrize(
    ("size", "shape"),
    [(32, (64, 96)), (PER_CHANNEL, (64, 96)), (10, (37, 50)), (PER_CHANNEL, (37, 50))],
)
def test_the_library_reads_the_same_weights(
    bits: int, sym: bool, size: int, shape: tuple[int, int]
) -> None:
    needs_library(bits)
    library = pytest.importorskip("compressed_tensors.compressors.pack_quantized")
    from compressed_tensors.quantization import QuantizationScheme

    scheme = Scheme(bits, size, sym)
    layer = layer_of(scheme, shape=shape)
    group: dict[str, Any] = compressed.config(plan_of(a=scheme))["config_groups"]["group_0"]
    own = QuantizationScheme.model_validate(group)
    tensors = PACK_QUANTIZED.to_tensors(layer)
    found = library.PackedQuantizationCompressor.decompress(tensors, own)["weight"]
    assert torch.equal(found.half(), dense_weight(layer).half())


def test_the_library_accepts_the_config() -> None:
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.quantization import QuantizationConfig

    mixed = plan_of(a=Scheme(4, 32, True), b=Scheme(8, -1, False), c=None)
    config = compressed.config(mixed)
    read = QuantizationConfig.model_validate(config)
    assert read.ignore == ["model.layers.0.c", "lm_head"]
    assert [g.targets for g in read.config_groups.values()] == [  # type: ignore[union-attr]
        ["model.layers.0.a"],
        ["model.layers.0.b"],
    ]


def test_a_wrong_shape_is_refused() -> None:
    layer = layer_of(Scheme(4, 32, True))
    tensors = PACK_QUANTIZED.to_tensors(layer)
    tensors["weight_shape"] = torch.tensor([64, 95])
    with pytest.raises(FormatError, match="weight_shape says"):
        PACK_QUANTIZED.from_tensors(tensors, layer.scheme, name="a")


def test_experts_that_are_alike_are_one_target() -> None:
    w4, w8 = Scheme(4, 32, True), Scheme(8, 32, True)

    def made(*experts: Scheme | None) -> BlockPlan:
        path = "model.layers.0"
        inside = [LayerPlan(f"{path}.self_attn.q_proj", (64, 64), w8)]
        inside += [
            LayerPlan(f"{path}.mlp.experts.{i}.up_proj", (64, 64), scheme)
            for i, scheme in enumerate(experts)
        ]
        return BlockPlan(0, path, tuple(inside))

    mixed = compressed.config(make_plan((made(w4, w4),)))
    targets = [group["targets"] for group in mixed["config_groups"].values()]
    assert targets == [["model.layers.0.self_attn.q_proj"], [r"re:.*\.experts\.\d+\..*"]]
    names = [x.name for x in made(w4, w4).layers]
    read = packed_layers(mixed, dict.fromkeys(names, (0, 0)), {f"{n}.weight_packed" for n in names})
    assert [layer.scheme for layer in read.values()] == [w8, w4, w4]
    # A regex would take in what is kept or held otherwise.
    for others in ((w4, w8), (w4, None)):
        found = compressed.config(make_plan((made(*others),)))
        listed = [t for group in found["config_groups"].values() for t in group["targets"]]
        assert not any(target.startswith("re:") for target in listed)
