"""What layouts say of headers is what they do with tensors; refusals are the same, word by word."""
# Tests: autoround/formats/on_meta.py

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch

from autoround.errors import FormatError
from autoround.formats.fitting import layout_bytes
from autoround.formats.format import Layout
from autoround.formats.header_layout import HeaderLayout
from autoround.formats.on_meta import bytes_on_meta, shape_on_meta, weight_on_meta
from autoround.formats.parts import headers_of_parts
from autoround.formats.registry import BUILT_IN, layout_named
from autoround.storage.dtypes import ITEM_BYTES, StoredHeader
from autoround.types import LEGAL_BITS, PER_CHANNEL, PER_TENSOR, Scheme

NAMES = tuple(
    dict.fromkeys(
        layout.name
        for one in BUILT_IN
        for layout in one.layouts
        if isinstance(layout, HeaderLayout)
    )
)
SCHEMES = [
    Scheme(bits, size, sym)
    for bits in LEGAL_BITS
    for size in (32, 64, 128, PER_CHANNEL, PER_TENSOR)
    for sym in (True, False)
]
SHAPES = ((64, 128), (96, 192), (32, 160))


def held(name: str) -> list[tuple[Layout, tuple[int, int], Scheme]]:
    layout = layout_named(name)
    return [
        (layout, shape, scheme)
        for shape in SHAPES
        for scheme in SCHEMES
        if not layout.illegal(scheme) and not layout.why_not(shape, scheme)
    ]


def test_all_layouts_of_safetensors_that_keep_codes_tell_by_headers() -> None:
    assert set(NAMES) == {
        "auto_round",
        "auto_round:auto_gptq",
        "auto_round:auto_awq",
        "gptq",
        "gptq_v2",
        "awq",
        "pack-quantized",
        "mlx",
    }


@pytest.mark.parametrize("name", NAMES)
def test_headers_are_those_of_the_tensors(name: str) -> None:
    cases = held(name)
    assert cases
    for layout, shape, scheme in cases:
        assert isinstance(layout, HeaderLayout)
        headers = headers_of_parts(layout.to_tensors(weight_on_meta(shape, scheme)))
        assert layout.part_headers(shape, scheme) == headers
        assert layout.matrix_shape(headers, scheme, name="a") == shape
        assert shape_on_meta(layout, headers, scheme, name="a") == shape
        size = sum(math.prod(sizes) * ITEM_BYTES[dtype] for sizes, dtype in headers.values())
        assert layout_bytes(layout, shape, scheme) == bytes_on_meta(layout, shape, scheme) == size


def damages(headers: Mapping[str, StoredHeader]) -> list[dict[str, StoredHeader]]:
    """Return headers with one tensor gone, of another dtype, or of another shape."""
    found: list[dict[str, StoredHeader]] = []
    for part, (shape, dtype) in headers.items():
        found.append({key: value for key, value in headers.items() if key != part})
        found += [{**headers, part: (shape, other)} for other in ("int64", "float32", "bfloat16")]
        others = [(*shape, 1), shape[1:], (0, *shape[1:])]
        others += [
            tuple(n + (i == axis) for i, n in enumerate(shape)) for axis in range(len(shape))
        ]
        others += [tuple(n * 2 for n in shape), tuple(n // 2 for n in shape)]
        found += [{**headers, part: (other, dtype)} for other in others]
    return found


@pytest.mark.parametrize("name", NAMES)
def test_what_does_not_fit_is_refused_in_the_words_of_reading_it(name: str) -> None:
    refused = 0
    for layout, shape, scheme in held(name)[::5]:
        assert isinstance(layout, HeaderLayout)
        for other in (scheme, Scheme(3, 64, not scheme.sym)):
            for headers in damages(layout.part_headers(shape, scheme)):
                refused += outcome_by_headers(layout, headers, other) is None
    assert refused > 10


def outcome_by_headers(
    layout: HeaderLayout, headers: Mapping[str, StoredHeader], scheme: Scheme
) -> tuple[int, int] | None:
    """Return a shape, None where it is refused; fails where tensors on meta say otherwise."""
    said: list[object] = []
    ways = (
        lambda: layout.matrix_shape(headers, scheme, name="a"),
        lambda: shape_on_meta(layout, headers, scheme, name="a"),  # type: ignore[arg-type]
    )
    for way in ways:
        try:
            said.append(way())
        except FormatError as error:
            said.append(str(error))
    assert said[0] == said[1]
    return said[0] if isinstance(said[0], tuple) else None


def test_a_layout_of_another_package_is_asked_by_tensors() -> None:
    fake = layout_named("fake")
    assert not isinstance(fake, HeaderLayout)
    assert layout_bytes(fake, (4, 8), Scheme(4, 8, True)) == 4 * 8 * torch.float32.itemsize
