"""Flags on the device, read together; weights cut along their axis of matrices."""

# Tests: autoround/formats/faults.py
from __future__ import annotations

import pytest
import torch

from autoround.core.packing import pack_rows_unchecked, unpack_rows
from autoround.errors import FormatError
from autoround.formats.faults import Fault, differences, raise_first
from autoround.formats.stacked import StackedLayout, expand_shared, part_of
from autoround.types import QuantizedTensor, Scheme


def layer_of(*lead: int, shared: bool = False) -> QuantizedTensor:
    groups = torch.ones(*(1 for _ in lead), 1, 1) if shared else torch.ones(*lead, 4, 2)
    codes = torch.randint(0, 16, (*lead, 4, 64), dtype=torch.uint8)
    return QuantizedTensor(codes, groups.half(), groups.byte(), Scheme(4, 32, False))


def test_the_first_fault_that_is_present_is_raised() -> None:
    flags = [torch.tensor(flag) for flag in (False, True, True)]
    faults = [Fault(flag, FormatError(str(number))) for number, flag in enumerate(flags)]
    with pytest.raises(FormatError, match="1"):
        raise_first(faults)
    raise_first(faults[:1])
    raise_first([])


def test_a_layout_is_checked_by_its_own_faults_and_by_the_range_of_codes() -> None:
    class Refusing(StackedLayout):
        """Refuses everything."""

        def faults(self, layer: QuantizedTensor) -> list[Fault]:
            return [Fault((layer.zero == 1).any(), FormatError("ones"))]

        def lay_out(self, layer: QuantizedTensor) -> dict[str, torch.Tensor]:
            return {"codes": layer.codes}

    layer = layer_of()
    with pytest.raises(FormatError, match="ones"):
        Refusing().to_tensors(layer)
    layer.codes[1, 1] = 16
    with pytest.raises(ValueError, match="a code is outside 0 … 15"):
        Refusing().to_tensors(layer)
    meta = QuantizedTensor(
        *(t.to("meta") for t in (layer.codes, layer.scale, layer.zero)), layer.scheme
    )
    assert Refusing().to_tensors(meta)["codes"].shape == (4, 64)


def test_differences_are_by_value_and_say_which_part() -> None:
    left = layer_of()
    right = QuantizedTensor(left.codes.clone(), left.scale.float(), left.zero.clone(), left.scheme)
    error = FormatError("other")
    assert not any(bool(fault.present) for fault in differences(left, right, error))
    for number, part in enumerate((right.codes, right.scale, right.zero)):
        before = part[0, 0].clone()
        part[0, 0] += 1
        assert [bool(f.present) for f in differences(left, right, error)] == [
            each == number for each in range(3)
        ]
        part[0, 0] = before


@pytest.mark.parametrize("shared", [False, True])
def test_some_matrices_have_their_scales(shared: bool) -> None:
    layer = layer_of(3, shared=shared)
    part = part_of(layer, slice(1, 3))
    assert torch.equal(part.codes, layer.codes[1:])
    assert part.scale.shape[0] == (1 if shared else 2)
    assert expand_shared(part.scale, part).shape == (2, 4, 1 if shared else 2)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_rows_are_packed_in_every_matrix_as_in_one(bits: int) -> None:
    codes = torch.randint(0, 2**bits, (2, 3, 64, 5), dtype=torch.uint8)
    words = pack_rows_unchecked(codes, bits)
    assert words.shape == (2, 3, 2 * bits, 5)
    for one in range(2):
        for two in range(3):
            assert torch.equal(words[one, two], pack_rows_unchecked(codes[one, two], bits))
    assert torch.equal(unpack_rows(words, bits), codes)
