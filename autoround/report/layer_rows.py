"""The layers of a plan as rows: where each is, how many bits it has, and how far off it is.

Layers of one block whose names differ by a number alone, such as experts, are one row.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from autoround.report.folder import RunFolder, mapping, mappings, number, sequence, text
from autoround.types import PLAIN, Scheme

#: Bits of a weight that stays as it is.
KEPT_BITS = 16
_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")


@dataclass(frozen=True)
class LayerRow:
    """One layer of a block, or several that differ by a number.

    block: its index; None outside the blocks. role: the path inside the block, ``*`` for numbers.
    schemes: how it is held, or why it is kept. bits: of a weight, without scales; one value each.
    count: matrices in the row, experts among them. shape: of the first. errors: ||W - Wq|| / ||W||
    of those that are known.
    """

    block: int | None
    role: str
    schemes: tuple[str, ...]
    bits: tuple[int, ...]
    count: int
    shape: tuple[int, int]
    errors: tuple[float, ...]

    @property
    def error(self) -> float | None:
        """The largest error; None where none is known."""
        return max(self.errors, default=None)

    @property
    def bits_text(self) -> str:
        """The bits in a few letters, such as ``4`` or ``3-8``."""
        low, high = min(self.bits), max(self.bits)
        return str(low) if low == high else f"{low}-{high}"


def layer_rows(run: RunFolder) -> list[LayerRow]:
    """Return the layers of a run in the order of the model, those outside the blocks last.

    Args:
        run: whose plan has the layers, and whose results have their errors.
    """
    errors: dict[str, float] = {}
    for result in run.results:
        known = mapping(result.get("layer_errors"))
        errors |= {n: e for n in known if (e := number(known, n)) is not None}
    rows: list[LayerRow] = []
    for index, block in enumerate(mappings(run.plan.get("blocks"))):
        prefix = text(block, "name") + "."
        rows += _merge_rows(index, mappings(block.get("layers")), errors, prefix=prefix)
    return rows + list(_merge_rows(None, mappings(run.plan.get("kept")), errors))


def _merge_rows(
    block: int | None,
    layers: list[Mapping[str, Any]],
    errors: Mapping[str, float],
    *,
    prefix: str = "",
) -> Iterator[LayerRow]:
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for layer in layers:
        path = text(layer, "name").removeprefix(prefix)
        role = path if block is None else _NUMBER.sub("*", path)
        groups.setdefault(role, []).append(layer)
    for role, group in groups.items():
        schemes = dict.fromkeys(map(_scheme_text, group))
        yield LayerRow(
            block,
            role,
            tuple(schemes),
            tuple(sorted({_bits(layer) for layer in group})),
            sum(max(1, int(number(layer, "experts") or 1)) for layer in group),
            _shape(group[0]),
            tuple(errors[n] for n in (text(layer, "name") for layer in group) if n in errors),
        )


def _bits(layer: Mapping[str, Any]) -> int:
    bits = number(layer, "scheme", "bits")
    return KEPT_BITS if bits is None else int(bits)


def _shape(layer: Mapping[str, Any]) -> tuple[int, int]:
    sides = [side for side in sequence(layer.get("shape")) if isinstance(side, int)]
    return (sides[0], sides[1]) if len(sides) == 2 else (0, 0)


def _scheme_text(layer: Mapping[str, Any]) -> str:
    scheme = mapping(layer.get("scheme"))
    bits, group = number(scheme, "bits"), number(scheme, "group_size")
    if bits is None or group is None:
        return f"kept: {text(layer, 'reason')}"
    kind = text(scheme, "kind") or PLAIN
    return str(Scheme(int(bits), int(group), scheme.get("sym") is True, kind))
