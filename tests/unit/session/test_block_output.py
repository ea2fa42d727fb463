"""A finished block's weights move between devices, and nothing else of it does."""

from __future__ import annotations

import pytest
import torch

from autoround.core.dtypes import DTYPES
from autoround.formats.gguf.blocks import GgufTensor
from autoround.session.block_output import BlockOutput, weight_on
from autoround.types import BlockResult, QuantizedTensor, Scheme

RESULT = BlockResult(0, "layers.0", 1.0, 0.5, 0.1, 1, 1, 0)
META = torch.device("meta")


def plain() -> QuantizedTensor:
    codes = torch.arange(8, dtype=torch.uint8).reshape(2, 4)
    scale = torch.ones(2, 1, dtype=DTYPES["float16"])
    zero = torch.full((2, 1), 8, dtype=torch.uint8)
    return QuantizedTensor(codes, scale, zero, Scheme(4, 4, sym=True))


def test_all_parts_of_a_weight_go() -> None:
    layer = plain()
    moved = weight_on(layer, META)
    assert isinstance(moved, QuantizedTensor)
    assert {part.device for part in (moved.codes, moved.scale, moved.zero)} == {META}
    assert (moved.codes.shape, moved.codes.dtype) == (layer.codes.shape, torch.uint8)
    assert moved.scheme == layer.scheme
    # Where it is already, nothing is copied.
    same = weight_on(layer, torch.device("cpu"))
    assert same.codes is layer.codes


@pytest.mark.parametrize("minimum", [None, torch.ones(2, 1)])
def test_parts_that_a_weight_lacks_stay_absent(minimum: torch.Tensor | None) -> None:
    layer = GgufTensor("q4_k", plain().codes, torch.ones(2, 1), None, minimum)
    moved = weight_on(layer, META)
    assert isinstance(moved, GgufTensor)
    assert moved.kind == "q4_k"
    assert moved.sub_scale is None
    assert (moved.minimum is None) == (minimum is None)
    assert moved.codes.device == META


def test_unquantized_tensors_stay_where_they_are() -> None:
    norm = torch.ones(4)
    output = BlockOutput({"fc": plain()}, {"norm": norm}, RESULT, 7)
    moved = output.on(META)
    assert moved.layers["fc"].codes.device == META
    assert moved.kept["norm"] is norm
    assert (moved.result, moved.source) == (RESULT, 7)
    assert output.layers["fc"].codes.device.type == "cpu"
