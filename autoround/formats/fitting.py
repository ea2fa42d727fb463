"""Which of the schemes that a config offers a layer is the one its tensors are in.

Configs name layers exactly, by suffixes, by regexes, and say what holds for all others; programs
disagree on which of these goes first. The shapes of a layer's tensors do not lie.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from autoround.errors import FormatError
from autoround.formats.format import Layout
from autoround.formats.header_layout import HeaderLayout
from autoround.storage.dtypes import ITEM_BYTES, StoredHeaders
from autoround.types import Scheme


class Candidate(NamedTuple):
    """A scheme that a layer may be in, and what of the config says so."""

    scheme: Scheme
    source: str


def headers_in(tensors: Collection[str]) -> StoredHeaders:
    """Return the headers of a checkpoint's tensors; none where only their names are known.

    Args:
        tensors: names, or headers by name.
    """
    return tensors if isinstance(tensors, Mapping) else {}


def choose_scheme(
    name: str,
    candidates: Iterable[Candidate],
    layout: Layout,
    *,
    headers: StoredHeaders,
    shape: tuple[int, int] = (0, 0),
) -> Scheme:
    """Return the first scheme that fits the tensors of a layer.

    Args:
        name: of the layer in the files.
        candidates: at least one, the likeliest first.
        layout: of its tensors.
        headers: of all tensors in the files; without any, the first scheme is taken.
        shape: (out, in) of the model's weight; zeros where that is not known.

    Raises:
        FormatError: none fits; with the shapes, and what the config says.
    """
    offered = list(dict.fromkeys(candidates))
    if not headers:
        return offered[0].scheme
    reasons = []
    for candidate in offered:
        try:
            held = held_shape(name, candidate.scheme, layout, headers)
        except FormatError as error:
            reasons.append(str(error))
            continue
        if 0 in shape or held == shape:
            return candidate.scheme
        reasons.append(f"its codes would be {held[0]} x {held[1]}")
    said = ", ".join(f"{scheme} ({source})" for scheme, source in offered)
    raise FormatError(
        f"layer {name}: {reasons[0].removeprefix(f'layer {name}: ')}; no scheme that the "
        f"quantization_config gives it fits its tensors: it says {said}, and the files hold "
        f"{describe_parts(name, layout.parts, headers)}"
    )


def held_shape(
    name: str, scheme: Scheme, layout: Layout, headers: StoredHeaders
) -> tuple[int, int]:
    """Return (out, in) of a packed layer, by the headers of its tensors.

    Args:
        name: of the layer in the files.
        scheme: that its tensors are read with.
        layout: of its tensors.
        headers: of all tensors in the files.

    Raises:
        FormatError: a tensor is missing, or does not fit the others.
    """
    reason = layout.illegal(scheme)
    if reason:
        raise FormatError(f"layer {name}: {layout.name} with {scheme}: {reason}")
    parts = {p: headers[f"{name}.{p}"] for p in layout.parts if f"{name}.{p}" in headers}
    rows, columns = _shape(layout, parts, scheme, name=name)
    order = parts.get("g_idx", parts.get("weight_g_idx"))
    if order is not None and order != ((columns,), "int32"):
        raise FormatError(
            f"layer {name}: g_idx is torch.{order[1]} {order[0]}, expected torch.int32 ({columns},)"
        )
    return rows, columns


def _shape(layout: Layout, parts: StoredHeaders, scheme: Scheme, *, name: str) -> tuple[int, int]:
    """Return (out, in) of a layer, by the layout's own word, or else by tensors on meta."""
    if isinstance(layout, HeaderLayout):
        return layout.matrix_shape(parts, scheme, name=name)
    from autoround.formats.on_meta import shape_on_meta

    return shape_on_meta(layout, parts, scheme, name=name)


def layout_bytes(layout: Layout, shape: tuple[int, int], scheme: Scheme) -> int:
    """Return the bytes of the tensors that a weight is laid out as.

    Args:
        layout: that it is laid out by.
        shape: (out, in).
        scheme: of the weight.

    Raises:
        FormatError, ValueError: the layout cannot hold it.
    """
    if isinstance(layout, HeaderLayout):
        headers = layout.part_headers(shape, scheme).values()
        return sum(math.prod(sizes) * ITEM_BYTES[dtype] for sizes, dtype in headers)
    from autoround.formats.on_meta import bytes_on_meta

    return bytes_on_meta(layout, shape, scheme)


def describe_parts(name: str, parts: Iterable[str], headers: StoredHeaders) -> str:
    """Return the tensors of a layer with their shapes, in words.

    Args:
        name: of the layer in the files.
        parts: names that its tensors may have.
        headers: of all tensors in the files.
    """
    stored = [(part, headers.get(f"{name}.{part}")) for part in parts]
    return ", ".join(f"{part} {header[0]}" for part, header in stored if header) or "none of them"
