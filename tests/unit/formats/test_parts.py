"""Tensors of a layer are checked before they are put together."""

from __future__ import annotations

import pytest
import torch

from autoround.errors import FormatError
from autoround.formats.parts import (
    assemble,
    headers_of_parts,
    inexact_values,
    matrix_shape,
    uneven_groups,
)
from autoround.types import Scheme

CODES = torch.zeros(6, 20, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("part", "dtypes"),
    [
        ("qweight", {"int32"}),
        ("qzeros", {"int32"}),
        ("scales", {"float16", "bfloat16"}),
        ("biases", {"float16", "bfloat16"}),
        ("weight_scale", {"float16", "bfloat16"}),
        ("weight", {"uint32"}),
    ],
)
def test_a_part_has_its_dtype_and_is_a_matrix(part: str, dtypes: set[str]) -> None:
    for dtype in ("int32", "uint32", "int64", "float16", "float32", "bfloat16"):
        if dtype in dtypes:
            assert matrix_shape({part: ((2, 3), dtype)}, part, "a") == (2, 3)
            for shape in ((6,), (1, 2, 3), (0, 3)):
                with pytest.raises(FormatError, match=rf"layer a: {part} is .*, expected a matrix"):
                    matrix_shape({part: (shape, dtype)}, part, "a")
        else:
            with pytest.raises(FormatError, match=f"layer a: {part} is torch.{dtype} "):
                matrix_shape({part: ((2, 3), dtype)}, part, "a")


def test_a_part_that_is_missing_is_named() -> None:
    with pytest.raises(FormatError, match=r"^layer a.b: tensor a.b.scales is missing$"):
        matrix_shape({}, "scales", "a.b")


def test_tensors_have_headers() -> None:
    held = {"scales": torch.ones(2, 3).bfloat16()}
    assert headers_of_parts(held) == {"scales": ((2, 3), "bfloat16")}


@pytest.mark.parametrize(("size", "groups"), [(5, 4), (8, 3), (20, 1), (64, 1), (-1, 1), (0, 1)])
def test_scales_and_zero_points_fit_the_groups_of_a_weight(size: int, groups: int) -> None:
    scheme = Scheme(4, size, False)
    scale, zero = torch.ones(6, groups).half(), torch.ones(6, groups).byte()
    made = assemble(CODES, scale, zero, scheme, name="a")
    # A scale of the whole tensor is one of each channel in files.
    assert made.scheme == Scheme(4, size or -1, False)
    assert torch.equal(made.scale, scale)
    for wrong in (torch.ones(6, groups + 1), torch.ones(5, groups), torch.ones(groups, 7)):
        with pytest.raises(FormatError, match=r"layer a: scales .* do not fit a weight of 6 x 20"):
            assemble(CODES, wrong.half(), zero, scheme, name="a")
        with pytest.raises(FormatError, match="do not fit"):
            assemble(CODES, scale, wrong.byte(), scheme, name="a")


@pytest.mark.parametrize(
    ("columns", "size", "even"), [(64, 32, True), (96, 64, False), (96, -1, True), (96, 0, True)]
)
def test_groups_that_do_not_divide_a_row_are_told(columns: int, size: int, even: bool) -> None:
    reason = uneven_groups(columns, Scheme(4, size, True), reader="AWQ")
    assert (reason == "") == even
    assert (
        even
        or reason == "its input width 96 is not a multiple of the group size 64, which AWQ needs"
    )


def test_values_that_a_dtype_does_not_hold_are_counted() -> None:
    exact = torch.tensor([1.0, 1 + 2**-10, 1 + 2**-11, 1 + 2**-7])
    assert inexact_values(exact, torch.float32, what="weights") == ""
    assert (
        inexact_values(exact, torch.float16, what="weights") == "1 weights are not exact in float16"
    )
    assert inexact_values(exact, torch.bfloat16, what="x") == "2 x are not exact in bfloat16"
