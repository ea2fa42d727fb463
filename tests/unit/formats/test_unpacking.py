"""A quantized checkpoint read as if it were not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from autoround.core.dtypes import Header
from autoround.core.rounding import dense_weight
from autoround.errors import FormatError
from autoround.formats.faults import raise_first
from autoround.formats.registry import layout_named
from autoround.formats.unpacking import UnpackingSource
from autoround.types import QuantizedTensor, Scheme

from ...tiny_quantized import nearest

SCHEME = Scheme(4, 32, False)
GPTQ: dict[str, Any] = {
    "quant_method": "gptq",
    "bits": 4,
    "group_size": 32,
    "sym": False,
    "checkpoint_format": "gptq_v2",
}
LAYER: QuantizedTensor = nearest(torch.randn(32, 96), SCHEME)


class Files:
    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors

    def headers(self) -> Mapping[str, Header]:
        return {n: (tuple(t.shape), t.dtype) for n, t in self.tensors.items()}

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        return {name: self.tensors[name] for name in names}


def stored(**changes: Tensor) -> Files:
    tensors = {f"a.{part}": t for part, t in layout_named("gptq_v2").to_tensors(LAYER).items()}
    plain = {
        "a.bias": torch.ones(32),
        "norm.weight": torch.randn(96),
        "b.weight": torch.randn(3, 5),
    }
    return Files({**tensors, **plain, **{f"a.{part}": t for part, t in changes.items()}})


def test_packed_layers_come_out_dense_and_all_else_as_it_is() -> None:
    files = stored()
    source = UnpackingSource(files, GPTQ)
    assert set(source.headers()) == {"a.weight", "a.bias", "norm.weight", "b.weight"}
    assert source.headers()["a.weight"] == ((32, 96), torch.float32)
    found = source.read(source.headers())
    assert torch.equal(found.pop("a.weight"), dense_weight(LAYER))
    assert all(torch.equal(found[name], files.tensors[name]) for name in found)


def test_a_layer_that_the_model_stores_turned_comes_out_so() -> None:
    source = UnpackingSource(stored(), GPTQ)
    source.transposed = {"a"}
    assert source.headers()["a.weight"] == ((96, 32), torch.float32)
    assert source.headers()["b.weight"][0] == (3, 5)
    assert torch.equal(source.read(["a.weight"])["a.weight"], dense_weight(LAYER).t())


def test_the_group_of_each_input_is_followed() -> None:
    order = torch.randperm(96)
    codes = LAYER.codes[:, order]
    moved = QuantizedTensor(codes, LAYER.scale, LAYER.zero, SCHEME)
    parts = layout_named("gptq_v2").to_tensors(moved)
    parts["g_idx"] = (order // 32).int()
    source = UnpackingSource(stored(**parts), GPTQ)
    assert torch.equal(source.dense("a"), dense_weight(LAYER)[:, order])


@pytest.mark.parametrize("group", [-1, 3])
def test_a_group_that_is_not_there_is_refused(group: int) -> None:
    index = torch.full((96,), group, dtype=torch.int32)
    with pytest.raises(FormatError, match=r"layer a: g_idx names groups outside 0 … 2"):
        UnpackingSource(stored(g_idx=index), GPTQ).dense("a")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scales_that_are_no_numbers_are_refused(value: float) -> None:
    scales = stored().tensors["a.scales"].clone()
    scales[1, 2] = value
    with pytest.raises(FormatError, match="layer a: its scales hold NaN or infinity"):
        UnpackingSource(stored(scales=scales), GPTQ).read(["a.weight"])


def test_what_is_wrong_with_values_can_be_raised_when_all_is_read() -> None:
    scales = stored().tensors["a.scales"].clone()
    scales[1, 2] = float("nan")
    index = torch.full((96,), 7, dtype=torch.int32)
    source = UnpackingSource(stored(scales=scales, g_idx=index), GPTQ)
    source.late = []
    assert source.read(["a.weight"])["a.weight"].shape == (32, 96)
    assert [bool(fault.present) for fault in source.late] == [True, True]
    with pytest.raises(FormatError, match="layer a: its scales hold NaN or infinity"):
        raise_first(source.late)
    good = UnpackingSource(stored(), GPTQ)
    good.late = []
    assert torch.equal(good.dense("a"), dense_weight(LAYER))
    assert not any(bool(fault.present) for fault in good.late)


def test_the_names_that_a_weight_is_unpacked_from() -> None:
    source = UnpackingSource(stored(), GPTQ)
    parts = [f"a.{part}" for part in ("qweight", "qzeros", "scales", "g_idx")]
    assert source.stored_names(["norm.weight", "a.weight"]) == ["norm.weight", *parts]


def test_what_is_not_followed_is_noted() -> None:
    assert UnpackingSource(stored(), GPTQ).notes == []
    (note,) = UnpackingSource(stored(), {**GPTQ, "kv_cache_scheme": {"num_bits": 8}}).notes
    assert "kv_cache_scheme" in note


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"b.weight": torch.ones(4, 4).to(torch.float8_e4m3fn)}, "b.weight is torch.float8_e4m3fn"),
        ({"b.weight": torch.ones(4, 4, dtype=torch.int8)}, "b.weight is torch.int8"),
        (
            {"b.weight": torch.ones(4, 4), "b.weight_scale": torch.ones(4)},
            "b.weight_scale, which belongs to no packed layer",
        ),
        ({"b.weight_global_scale": torch.ones(1)}, "b.weight_global_scale, which belongs to no"),
    ],
)
def test_weights_of_another_kind_beside_packed_ones_are_refused(
    tensors: dict[str, Tensor], words: str
) -> None:
    files = stored()
    files.tensors.update(tensors)
    with pytest.raises(FormatError, match=words):
        UnpackingSource(files, GPTQ)
