"""Matrices unpacked together are what each by itself is, and so is what is said of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest
import torch
from torch import Tensor

from autoround.core.dtypes import Header
from autoround.core.rounding import dense_weight
from autoround.errors import FormatError
from autoround.formats.faults import raise_first
from autoround.formats.format import PackedLayer
from autoround.formats.matrix_stacks import PackedMatrix, dense_matrices, stacks, tells_shape
from autoround.formats.registry import layout_named
from autoround.formats.regroup import ordered_weight
from autoround.formats.unpacking import UnpackingSource
from autoround.types import PER_CHANNEL, PER_TENSOR, Scheme

from ...tiny_quantized import nearest

LAYOUTS = ("gptq", "gptq_v2", "auto_round", "awq", "pack-quantized", "mlx")
CASES = [
    (packing, Scheme(4, group_size, sym))
    for packing in LAYOUTS
    for sym in (True, False)
    for group_size in (32, PER_CHANNEL, PER_TENSOR)
    if not layout_named(packing).illegal(Scheme(4, group_size, sym))
]


def packed(scheme: Scheme, packing: str, shape: tuple[int, int] = (32, 96)) -> PackedMatrix:
    layer = nearest(torch.randn(shape), scheme)
    return PackedMatrix(PackedLayer(scheme, packing), layout_named(packing).to_tensors(layer))


def alone(name: str, matrix: PackedMatrix) -> Tensor:
    (scheme, packing), parts = matrix
    layer = layout_named(packing).from_tensors(parts, scheme, name=name)
    index = parts.get("g_idx")
    if index is None or layer.scheme.group_size <= 0:
        return dense_weight(layer)
    return ordered_weight(layer, index)


@pytest.mark.parametrize(("packing", "scheme"), CASES)
def test_matrices_come_out_as_each_by_itself(packing: str, scheme: Scheme) -> None:
    matrices = {f"e.{n}": packed(scheme, packing) for n in range(5)}
    matrices["wide"] = packed(scheme, packing, (64, 96))
    matrices["long"] = packed(scheme, packing, (32, 192))
    if scheme.group_size == 32 and packing == "gptq":
        order = torch.randperm(96) // 32
        matrices["e.1"].parts["g_idx"].copy_(order)  # type: ignore[index]
    assert all(stacks(matrix.layer) for matrix in matrices.values())
    # Two matrices at a time, with one left over.
    together = dense_matrices(matrices, chunk=2 * 32 * 96)
    assert set(together) == set(matrices)
    for name, matrix in matrices.items():
        assert torch.equal(together[name].weight, alone(name, matrix)), name
        assert not any(bool(fault.present) for fault in together[name].faults)


def test_chunks_and_shapes_bound_what_is_stacked(monkeypatch: pytest.MonkeyPatch) -> None:
    scheme = Scheme(4, 32, False)
    matrices = {f"e.{n}": packed(scheme, "auto_round") for n in range(5)}
    layout = layout_named("auto_round")
    taken: list[int] = []
    real = type(layout).take_apart

    def counted(self: object, tensors: Mapping[str, Tensor], *args: object) -> object:
        if tensors["qweight"].dim() == 3:
            taken.append(len(tensors["qweight"]))
        return real(self, tensors, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(type(layout), "take_apart", counted)
    dense_matrices(matrices, chunk=1)
    dense_matrices(matrices, chunk=2 * 32 * 96)
    dense_matrices(matrices)
    assert taken == [1, 1, 1, 1, 1, 2, 2, 1, 5]


def test_what_is_wrong_is_said_of_the_matrix_that_has_it() -> None:
    scheme = Scheme(4, 32, True)
    matrices = {f"e.{n}": packed(scheme, "gptq_v2") for n in range(3)}
    matrices["e.1"].parts["scales"][0, 3] = float("nan")
    other = layout_named("gptq").to_tensors(nearest(torch.randn(32, 96), scheme))
    matrices["e.2"] = PackedMatrix(matrices["e.2"].layer, {**other})
    matrices["e.2"].parts["g_idx"][5] = 3
    together = dense_matrices(matrices)
    present = {
        name: [str(fault.error) for fault in matrix.faults if bool(fault.present)]
        for name, matrix in together.items()
    }
    assert present["e.0"] == []
    assert present["e.1"] == ["layer e.1: its scales hold NaN or infinity"]
    version, groups = present["e.2"]
    assert version.startswith("layer e.2: all its zero points are 7")
    assert groups == "layer e.2: g_idx names groups outside 0 … 2"


def test_biases_of_another_quantizer_are_flagged() -> None:
    scheme = Scheme(4, 32, False)
    matrices = {f"e.{n}": packed(scheme, "mlx") for n in range(2)}
    matrices["e.1"].parts["biases"][0, 0] += matrices["e.1"].parts["scales"][0, 0] / 2
    with pytest.raises(FormatError) as single:
        alone("e.1", matrices["e.1"])
    together = dense_matrices(matrices)
    raise_first(together["e.0"].faults)
    with pytest.raises(FormatError) as stacked:
        raise_first(together["e.1"].faults)
    assert str(stacked.value) == str(single.value)


def test_a_matrix_that_does_not_fit_its_layout_is_named() -> None:
    scheme = Scheme(4, 32, True)
    matrices = {f"e.{n}": packed(scheme, "pack-quantized") for n in range(3)}
    wrong = {**matrices["e.1"].parts, "weight_shape": torch.tensor([32, 64])}
    matrices["e.1"] = PackedMatrix(matrices["e.1"].layer, wrong)
    with pytest.raises(FormatError) as single:
        alone("e.1", matrices["e.1"])
    with pytest.raises(FormatError, match=r"layer e\.1: weight_shape says \[32, 64\]") as stacked:
        dense_matrices(matrices)
    assert str(stacked.value) == str(single.value)


def test_numbers_that_tell_a_shape_are_told_from_weights() -> None:
    assert tells_shape(torch.tensor([3, 4]))
    assert not tells_shape(torch.arange(3))
    assert not tells_shape(torch.ones(2, dtype=torch.int32))


class Files:
    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors

    def headers(self) -> Mapping[str, Header]:
        return {n: (tuple(t.shape), t.dtype) for n, t in self.tensors.items()}

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        return {name: self.tensors[name] for name in names}


def test_layers_that_are_read_together_read_as_one_by_one() -> None:
    scheme = Scheme(4, 32, False)
    config = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": False}
    config["checkpoint_format"] = "gptq_v2"
    tensors = {"norm.weight": torch.randn(96)}
    for name in ("a", "b", "c"):
        parts = packed(scheme, "gptq_v2").parts
        tensors.update({f"{name}.{part}": tensor for part, tensor in parts.items()})
    tensors["b.scales"][0, 0] = float("inf")
    tensors["c.scales"][1, 0] = float("inf")
    names = ["c.weight", "norm.weight", "a.weight", "b.weight"]
    at_once, late = (UnpackingSource(Files(tensors), config) for _ in range(2))
    at_once.transposed = late.transposed = {"a"}
    with pytest.raises(FormatError, match="layer c: its scales") as error:
        at_once.read(names)
    late.late = []
    read = late.read(names)
    assert list(read) == names
    with pytest.raises(FormatError) as error_late:
        raise_first(late.late)
    assert str(error_late.value) == str(error.value)
    assert read["norm.weight"] is tensors["norm.weight"]
    assert read["a.weight"].shape == (96, 32)
    assert torch.equal(read["a.weight"], at_once.read(["a.weight"])["a.weight"])
