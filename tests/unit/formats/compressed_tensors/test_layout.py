"""compressed-tensors: golden words, round trips, and what its own library makes of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoround.core.rounding import dense_weight
from autoround.errors import FormatError
from autoround.formats.compressed_tensors import config as compressed
from autoround.formats.compressed_tensors.layout import PACK_QUANTIZED
from autoround.formats.compressed_tensors.reading import packed_layers
from autoround.types import (
    PER_CHANNEL,
    BlockPlan,
    LayerPlan,
    OutputPlan,
    Plan,
    QuantizedTensor,
    Scheme,
)

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


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    bits=st.sampled_from((4, 8)),
    size=st.sampled_from((16, 32, 96, PER_CHANNEL)),
    sym=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_layers_come_back_as_they_were(bits: int, size: int, sym: bool, seed: int) -> None:
    layer = layer_of(Scheme(bits, size, sym), seed=seed)
    tensors = PACK_QUANTIZED.to_tensors(layer)
    back = PACK_QUANTIZED.from_tensors(tensors, layer.scheme, name="a")
    assert torch.equal(back.codes, layer.codes)
    assert torch.equal(back.scale, layer.scale)
    assert torch.equal(back.zero, layer.zero)
    assert ("weight_zero_point" in tensors) is not sym


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


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("sym", [True, False])
@pytest.mark.parametrize("size", [32, PER_CHANNEL])
def test_the_library_reads_the_same_weights(bits: int, sym: bool, size: int) -> None:
    library = pytest.importorskip("compressed_tensors.compressors.pack_quantized")
    from compressed_tensors.quantization import QuantizationScheme

    scheme = Scheme(bits, size, sym)
    layer = layer_of(scheme)
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
        assert "transformers reads one scheme" in compressed.notes(made(*others).layers)[0]
    assert compressed.notes(made(w4, w4).layers) == []


def test_what_transformers_cannot_read_is_noted() -> None:
    w8, asym = Scheme(8, 32, True), Scheme(4, 32, False)

    def of(*schemes: Scheme | None) -> list[str]:
        layers = [LayerPlan(f"h.0.l{i}", (64, 64), s) for i, s in enumerate(schemes)]
        return compressed.notes(layers)

    assert of(w8, None) == of(w8, Scheme(4, 32, True)) == []
    assert "dequantize=True" in of(asym, asym, None)[0]
    assert "several schemes where one is asymmetric" in of(asym, w8)[0]
