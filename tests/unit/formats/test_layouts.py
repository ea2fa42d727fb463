"""The tensors of every layout: round trips, golden words, and refusals."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from autoround.core.rounding import dense_weight
from autoround.errors import FormatError
from autoround.formats.auto_round.format import AUTO_ROUND
from autoround.formats.gptq.layout import GPTQ_V1
from autoround.formats.registry import BUILT_IN, layout_named
from autoround.types import LEGAL_BITS, PER_CHANNEL, PER_TENSOR, QuantizedTensor, Scheme

from ...packed import from_tensors, to_tensors
from ...tiny_quantized import nearest

PARTS = ("qweight", "qzeros", "scales")
PACKING_V1, PACKING_PLAIN = "auto_round:auto_gptq", "auto_round"
PACKING_AWQ = "auto_round:auto_awq"
LAYOUTS = {layout.name for one in BUILT_IN for layout in one.layouts}

many = settings(max_examples=80, deadline=None, derandomize=True)

#: A group wider than every input and one that divides few are among them.
GROUP_SIZES = (16, 32, 48, 64, 256, PER_CHANNEL, PER_TENSOR)
schemes = st.builds(
    Scheme, st.sampled_from(LEGAL_BITS), st.sampled_from(GROUP_SIZES), st.booleans()
)
widths = st.sampled_from((32, 64, 96, 160))
shapes = st.tuples(widths, widths)


def layer_of(shape: tuple[int, int], scheme: Scheme, *, seed: int = 0) -> QuantizedTensor:
    """Quantize random weights: no group so one-sided that its zero point is 0."""
    return nearest(torch.randn(shape, generator=torch.Generator().manual_seed(seed)), scheme)


def meta(layer: QuantizedTensor) -> QuantizedTensor:
    codes, scale, zero = (part.to("meta") for part in (layer.codes, layer.scale, layer.zero))
    return QuantizedTensor(codes, scale, zero, layer.scheme)


def packing_of(schemes: set[Scheme]) -> str:
    return AUTO_ROUND.layout_for(schemes).name


def words(values: list[int], bits: int) -> list[int]:
    """Write values as one little-endian bit stream by Python's integers; cut it in words."""
    stream = sum(value << (bits * k) for k, value in enumerate(values))
    count = len(values) * bits // 32
    return [stream >> (32 * i) & 0xFFFFFFFF for i in range(count)]


def unsigned(tensor: Tensor) -> list[int]:
    return [int(value) & 0xFFFFFFFF for value in tensor]


@many
@given(shape=shapes, scheme=schemes, seed=st.integers(0, 2**31), v1=st.booleans())
def test_layers_come_back_as_they_were(
    shape: tuple[int, int], scheme: Scheme, seed: int, v1: bool
) -> None:
    layer = layer_of(shape, scheme, seed=seed)
    packing = PACKING_V1 if v1 and bool(layer.zero.all()) else PACKING_PLAIN
    tensors = to_tensors(layer, packing)
    back = from_tensors(tensors, scheme, packing=packing, name="a")
    rows = shape[0]
    assert torch.equal(back.codes, layer.codes)
    assert torch.equal(back.scale, layer.scale.expand(rows, -1))
    assert torch.equal(back.zero, layer.zero.expand(rows, -1))
    assert torch.equal(dense_weight(back), dense_weight(layer))
    # A scale of the whole tensor is written, and so read, once a row.
    size = PER_CHANNEL if scheme.group_size == PER_TENSOR else scheme.group_size
    assert back.scheme == Scheme(scheme.bits, size, scheme.sym)


@many
@given(shape=shapes, scheme=schemes, seed=st.integers(0, 2**31))
def test_tensors_have_the_layout(shape: tuple[int, int], scheme: Scheme, seed: int) -> None:
    rows, columns = shape
    tensors = to_tensors(layer_of(shape, scheme, seed=seed), PACKING_PLAIN)
    width = scheme.group_size if 0 < scheme.group_size < columns else columns
    groups = -(-columns // width)
    assert tuple(tensors) == PARTS
    assert tensors["qweight"].shape == (columns // 32 * scheme.bits, rows)
    assert tensors["qzeros"].shape == (groups, rows // 32 * scheme.bits)
    assert tensors["scales"].shape == (groups, rows)
    assert [tensors[part].dtype for part in PARTS] == [torch.int32, torch.int32, torch.float16]
    assert all(tensor.is_contiguous() for tensor in tensors.values())


@many
@given(shape=shapes, scheme=schemes, packing=st.sampled_from((PACKING_PLAIN, PACKING_V1)))
def test_meta_tensors_give_the_shapes_of_real_ones(
    shape: tuple[int, int], scheme: Scheme, packing: str
) -> None:
    layer = layer_of(shape, Scheme(scheme.bits, scheme.group_size, True))
    real, empty = to_tensors(layer, packing), to_tensors(meta(layer), packing)
    assert real.keys() == empty.keys()
    for part, tensor in empty.items():
        assert tensor.is_meta
        assert (tensor.shape, tensor.dtype) == (real[part].shape, real[part].dtype)


@pytest.mark.parametrize("bits", LEGAL_BITS)
def test_words_are_those_of_a_bit_stream(bits: int) -> None:
    generator = torch.Generator().manual_seed(bits)
    codes = torch.randint(0, 2**bits, (64, 96), generator=generator, dtype=torch.uint8)
    zero = torch.randint(1, 2**bits, (64, 3), generator=generator, dtype=torch.uint8)
    layer = QuantizedTensor(codes, torch.ones(64, 3).half(), zero, Scheme(bits, 32, False))
    for packing, shift in ((PACKING_PLAIN, 0), (PACKING_V1, 1)):
        tensors = to_tensors(layer, packing)
        # Codes run along the inputs of one output, zero points along the outputs of one group.
        for row in (0, 1, 63):
            assert unsigned(tensors["qweight"][:, row]) == words(codes[row].tolist(), bits)
        for group in range(3):
            values = [int(z) - shift for z in zero[:, group]]
            assert unsigned(tensors["qzeros"][group]) == words(values, bits)


def test_golden_words_of_four_bits() -> None:
    codes = (torch.arange(32) % 16).expand(32, 32).to(torch.uint8)
    zero = torch.full((32, 1), 8, dtype=torch.uint8)
    layer = QuantizedTensor(codes, torch.ones(32, 1).half(), zero, Scheme(4, PER_CHANNEL, True))
    tensors = to_tensors(layer, PACKING_V1)
    expected = [0x76543210, 0xFEDCBA98] * 2
    assert unsigned(tensors["qweight"][:, 0]) == expected


def test_golden_words_of_three_bits() -> None:
    """Value 10 straddles the first two words, value 21 the last two."""
    codes = torch.zeros(32, 32, dtype=torch.uint8)
    codes[0, 10], codes[0, 21] = 7, 7
    codes[1, 0], codes[1, 31] = 1, 4
    zero = torch.full((32, 1), 4, dtype=torch.uint8)
    layer = QuantizedTensor(codes, torch.ones(32, 1).half(), zero, Scheme(3, PER_CHANNEL, True))
    qweight = to_tensors(layer, PACKING_V1)["qweight"]
    assert unsigned(qweight[:, 0]) == [0xC0000000, 0x80000001, 0x00000003]
    assert unsigned(qweight[:, 1]) == [0x00000001, 0x00000000, 0x80000000]
    assert unsigned(qweight[:, 2]) == [0, 0, 0]


@pytest.mark.parametrize(
    ("bits", "v1", "plain"),
    [
        (2, [0x55555555], [0xAAAAAAAA]),
        (3, [0xDB6DB6DB, 0xB6DB6DB6, 0x6DB6DB6D], [0x24924924, 0x49249249, 0x92492492]),
        (4, [0x77777777], [0x88888888]),
        (8, [0x7F7F7F7F], [0x80808080]),
    ],
)
def test_golden_zero_words_of_symmetric_grids(bits: int, v1: list[int], plain: list[int]) -> None:
    layer = layer_of((32, 64), Scheme(bits, 32, True))
    for packing, expected in ((PACKING_V1, v1), (PACKING_PLAIN, plain)):
        qzeros = to_tensors(layer, packing)["qzeros"]
        assert qzeros.shape == (2, bits)
        for group in qzeros:
            assert unsigned(group) == expected * (bits // len(expected))


def test_v1_refuses_a_zero_point_of_zero() -> None:
    weight = torch.rand(32, 64) + 0.1  # all positive: the lowest level is zero itself
    layer = nearest(weight, Scheme(4, 32, False))
    assert not layer.zero.any()
    with pytest.raises(FormatError, match="cannot hold a zero point of 0"):
        to_tensors(layer, PACKING_V1)
    back = from_tensors(
        to_tensors(layer, PACKING_PLAIN), layer.scheme, packing=PACKING_PLAIN, name="a"
    )
    assert torch.equal(back.zero, layer.zero)


def test_negative_scales_survive() -> None:
    layer = nearest(torch.rand(32, 32) + 0.1, Scheme(4, 32, True))
    assert bool((layer.scale < 0).all())
    tensors = to_tensors(layer, PACKING_V1)
    back = from_tensors(tensors, layer.scheme, packing=PACKING_V1, name="a")
    assert torch.equal(back.scale, layer.scale)


def test_packing_follows_the_schemes() -> None:
    sym, asym = Scheme(4, 128, True), Scheme(4, 128, False)
    assert packing_of({sym, Scheme(2, 32, True)}) == PACKING_V1 == "auto_round:auto_gptq"
    assert packing_of({asym}) == PACKING_PLAIN == "auto_round"
    assert packing_of({sym, asym}) == PACKING_PLAIN


def test_widths_that_cannot_be_packed_are_named() -> None:
    assert GPTQ_V1.why_not((64, 96), SCHEME) == ""
    reason = GPTQ_V1.why_not((33, 64), SCHEME)
    assert reason.startswith("its output width 33 is not a multiple of 32")
    reason = GPTQ_V1.why_not((64, 40), SCHEME)
    assert reason.startswith("its input width 40 is not a multiple of 32")


SCHEME = Scheme(4, 32, True)


def good() -> dict[str, Tensor]:
    return to_tensors(layer_of((64, 96), SCHEME), PACKING_V1)


@pytest.mark.parametrize("part", PARTS)
def test_a_missing_tensor_is_named(part: str) -> None:
    tensors = good()
    del tensors[part]
    with pytest.raises(FormatError, match=rf"layer x\.y: tensor x\.y\.{part} is missing"):
        from_tensors(tensors, SCHEME, packing=PACKING_V1, name="x.y")


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.uint8])
def test_a_tensor_of_another_dtype_is_refused(part: str, dtype: torch.dtype) -> None:
    tensors = good()
    tensors[part] = tensors[part].to(dtype)
    with pytest.raises(FormatError, match=rf"layer x\.y: {part} is {dtype} \(.*expected a matrix"):
        from_tensors(tensors, SCHEME, packing=PACKING_V1, name="x.y")


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("damage", ["row", "column", "flat", "empty", "turned", "twice", "deep"])
def test_a_tensor_of_another_shape_is_refused(part: str, damage: str) -> None:
    tensors = good()
    tensor = tensors[part]
    tensors[part] = {
        "row": tensor[1:],
        "column": tensor[:, 1:],
        "flat": tensor.flatten(),
        "empty": tensor[:0],
        "turned": tensor.t(),
        "twice": tensor.repeat(2, 1),
        "deep": tensor[None],
    }[damage]
    with pytest.raises(FormatError, match=r"layer x\.y: "):
        from_tensors(tensors, SCHEME, packing=PACKING_V1, name="x.y")


@pytest.mark.parametrize(
    "scheme", [Scheme(3, 32, True), Scheme(8, 32, True), Scheme(4, 64, True), Scheme(4, -1, True)]
)
def test_another_scheme_is_refused(scheme: Scheme) -> None:
    with pytest.raises(FormatError, match=r"layer x\.y: "):
        from_tensors(good(), scheme, packing=PACKING_V1, name="x.y")


def test_empty_tensors_are_refused() -> None:
    empty = {part: tensor[:0, :0] for part, tensor in good().items()}
    with pytest.raises(FormatError, match=r"layer x\.y: "):
        from_tensors(empty, SCHEME, packing=PACKING_V1, name="x.y")


def test_scales_may_be_bfloat16() -> None:
    tensors = good()
    tensors["scales"] = tensors["scales"].bfloat16()
    back = from_tensors(tensors, SCHEME, packing=PACKING_V1, name="a")
    assert torch.equal(back.scale, tensors["scales"].t())


AWQ_SCHEMES = [Scheme(4, 32, True), Scheme(4, 32, False), Scheme(4, PER_CHANNEL, False)]


@pytest.mark.parametrize("packing", [PACKING_AWQ, "awq"])
@pytest.mark.parametrize("scheme", AWQ_SCHEMES)
@pytest.mark.parametrize("shape", [(8, 32), (64, 96), (40, 64)])
def test_awq_layers_come_back_as_they_were(
    packing: str, scheme: Scheme, shape: tuple[int, int]
) -> None:
    layer = layer_of(shape, scheme)
    tensors, empty = to_tensors(layer, packing), to_tensors(meta(layer), packing)
    for part in PARTS:
        assert (tensors[part].shape, tensors[part].dtype) == (empty[part].shape, empty[part].dtype)
    back = from_tensors(tensors, scheme, packing=packing, name="a")
    assert torch.equal(back.codes, layer.codes)
    assert torch.equal(back.scale, layer.scale)
    assert torch.equal(back.zero, layer.zero)


def test_golden_words_of_awq() -> None:
    # Outputs 0 to 7 of the first input hold 0 to 7, those of the second 8 to 15.
    codes = torch.arange(16, dtype=torch.uint8).reshape(2, 8).t().repeat(1, 16)
    scale = torch.ones(8, 1, dtype=torch.float16)
    zero = torch.tensor([[0], [1], [2], [3], [4], [5], [6], [15]], dtype=torch.uint8)
    tensors = to_tensors(QuantizedTensor(codes, scale, zero, Scheme(4, 32, False)), PACKING_AWQ)
    assert tensors["qweight"].shape == (32, 1)
    # Nibbles from the low one hold outputs 0, 2, 4, 6, 1, 3, 5, 7.
    assert unsigned(tensors["qweight"][:2, 0]) == [0x75316420, 0xFDB9ECA8]
    assert unsigned(tensors["qzeros"][0]) == [0xF5316420]


def test_awq_holds_four_bits_and_whole_groups_only() -> None:
    with pytest.raises(FormatError, match="AWQ holds 4 bits, not 3"):
        to_tensors(layer_of((64, 64), Scheme(3, 32, False)), PACKING_AWQ)
    assert layout_named("awq").illegal(Scheme(4, 32, True)) == ""
    assert layout_named("awq").illegal(Scheme(8, 32, True)) == "it holds 4 bits only, not 8"
    assert layout_named("awq").why_not((64, 96), Scheme(4, 32, True)) == ""
    assert "output width 36" in layout_named("awq").why_not((36, 96), Scheme(4, 32, True))
    assert "input width 96" in layout_named("awq").why_not((64, 96), Scheme(4, 64, True))


@pytest.mark.parametrize("packing", ["gptq", "gptq_v2"])
@pytest.mark.parametrize("group_size", [32, 48, PER_CHANNEL, PER_TENSOR])
def test_gptq_layers_say_the_group_of_each_input(packing: str, group_size: int) -> None:
    layer = layer_of((64, 96), Scheme(4, group_size, True))
    tensors = to_tensors(layer, packing)
    width = group_size if group_size > 0 else 96
    assert tensors["g_idx"].tolist() == [i // width for i in range(96)]
    assert tensors["g_idx"].dtype == torch.int32
    plain = to_tensors(layer, PACKING_V1 if packing == "gptq" else PACKING_PLAIN)
    assert all(torch.equal(tensors[part], plain[part]) for part in PARTS)
    assert tuple(plain) == PARTS


def test_only_version_1_lacks_a_zero_point() -> None:
    lowest = {packing: layout_named(packing).lowest_zero for packing in LAYOUTS}
    assert {packing for packing, zero in lowest.items() if zero} == {PACKING_V1, "gptq"}


def test_an_unknown_layout_is_refused() -> None:
    with pytest.raises(FormatError, match="no layout is named 'nothing'; legal: auto_round"):
        to_tensors(layer_of((32, 32), Scheme(4, 32, True)), "nothing")
