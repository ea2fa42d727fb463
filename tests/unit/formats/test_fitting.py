"""The scheme of a layer is the one that its tensors are in."""

from __future__ import annotations

import pytest
import torch

from autoround.errors import FormatError
from autoround.formats.fitting import (
    Candidate,
    choose_scheme,
    describe_parts,
    headers_in,
    held_shape,
)
from autoround.formats.parts import headers_of_parts
from autoround.formats.registry import layout_named
from autoround.storage.dtypes import StoredHeader
from autoround.types import Scheme

from ...tiny_quantized import nearest

GPTQ, PACKED = layout_named("gptq"), layout_named("pack-quantized")
W4, W8, W4_64 = Scheme(4, 32, True), Scheme(8, 32, True), Scheme(4, 64, True)


def headers(scheme: Scheme, packing: str = "gptq") -> dict[str, StoredHeader]:
    layer = nearest(torch.linspace(-1, 1, 16).repeat(64, 8), scheme)
    tensors = layout_named(packing).to_tensors(layer)
    kept = {p: t.half() if t.is_floating_point() else t for p, t in tensors.items()}
    return {f"a.{part}": header for part, header in headers_of_parts(kept).items()}


def candidates(*schemes: Scheme) -> list[Candidate]:
    return [Candidate(scheme, f"rule {index}") for index, scheme in enumerate(schemes)]


@pytest.mark.parametrize("scheme", [W4, W8, W4_64, Scheme(4, -1, True)])
def test_the_first_that_fits_is_taken(scheme: Scheme) -> None:
    offered = candidates(W8, W4, W4_64, Scheme(4, -1, True))
    assert choose_scheme("a", offered, GPTQ, headers=headers(scheme)) == scheme
    assert held_shape("a", scheme, GPTQ, headers(scheme)) == (64, 128)


def test_the_shape_of_the_model_decides_where_tensors_do_not() -> None:
    # 64 x 128 in 4 bits by 64 and 64 x 64 in 8 bits by 32 have the same tensors.
    stored = headers(W4_64, "pack-quantized")
    offered = candidates(W8, W4_64)
    assert choose_scheme("a", offered, PACKED, headers=stored) == W8
    assert choose_scheme("a", offered, PACKED, headers=stored, shape=(64, 128)) == W4_64
    with pytest.raises(FormatError, match="its codes would be 64 x 64"):
        choose_scheme("a", offered[:1], PACKED, headers=stored, shape=(64, 128))


def test_without_headers_the_first_is_taken() -> None:
    assert headers_in({"a.qweight"}) == {}
    assert headers_in(headers(W4)) == headers(W4)
    assert choose_scheme("a", candidates(W8, W4), GPTQ, headers=headers_in(["a.qweight"])) == W8


def test_what_fits_none_is_told_with_all_that_is_known() -> None:
    stored = headers(W4)
    stored["a.g_idx"] = ((64,), "int32")
    with pytest.raises(FormatError) as caught:
        choose_scheme("a", candidates(W4, W8), GPTQ, headers=stored)
    said = str(caught.value)
    assert said.startswith("layer a: g_idx is torch.int32 (64,), expected torch.int32 (128,)")
    assert "it says W4 g32 sym (rule 0), W8 g32 sym (rule 1)" in said
    assert said.endswith(
        "the files hold qweight (16, 64), qzeros (4, 8), scales (4, 64), g_idx (64,)"
    )


def test_missing_tensors_and_widths_that_a_layout_lacks_are_told() -> None:
    with pytest.raises(FormatError, match="tensor a.qweight is missing"):
        held_shape("a", W4, GPTQ, {})
    with pytest.raises(FormatError, match="gptq with W5"):
        held_shape("a", Scheme(5, 32, True), GPTQ, headers(W4))
    assert describe_parts("b", GPTQ.parts, headers(W4)) == "none of them"
