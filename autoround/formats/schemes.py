"""Schemes as configs write them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autoround.errors import FormatError
from autoround.types import LEGAL_BITS, PER_CHANNEL, PER_TENSOR, Scheme


def most_common(schemes: list[Scheme]) -> Scheme:
    """Return the scheme of most layers; the first one among equals.

    Args:
        schemes: one a layer, at least one.
    """
    return max(dict.fromkeys(schemes), key=schemes.count)


def group_key(scheme: Scheme) -> int:
    """Return the group size of a config: a per-tensor scale is written once a channel.

    Args:
        scheme: its group size.

    Returns:
        Weights a scale; -1 for one scale an output channel.
    """
    return PER_CHANNEL if scheme.group_size == PER_TENSOR else scheme.group_size


def read_scheme(keys: Mapping[str, Any], where: str) -> Scheme:
    """Read the scheme of GPTQ's or AWQ's keys.

    Args:
        keys: bits, group_size and sym, under either program's names.
        where: what they are about, for messages.

    Returns:
        A plain scheme; symmetric where the keys do not say.

    Raises:
        FormatError: a value is illegal.
    """
    bits = keys.get("bits", keys.get("w_bit"))
    size = keys.get("group_size", keys.get("q_group_size"))
    if not isinstance(bits, int) or bits not in LEGAL_BITS:
        raise FormatError(
            f"quantization_config: bits {where} is {bits!r}; legal: "
            f"{', '.join(map(str, LEGAL_BITS))}"
        )
    if not isinstance(size, int) or (size < 1 and size not in (PER_CHANNEL, PER_TENSOR)):
        raise FormatError(
            f"quantization_config: group_size {where} is {size!r}; legal: 1 and more, "
            f"{PER_CHANNEL} (channel)"
        )
    return Scheme(bits, size, bool(keys.get("sym", True)))
