"""Schemes as configs write them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autoround.errors import FormatError
from autoround.formats.config_values import read_bits, read_flag, read_group_size
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
    bits = read_bits(_first(keys, "bits", "w_bit"), where=where)
    if bits not in LEGAL_BITS:
        raise FormatError(
            f"quantization_config: bits {where} is {bits}; legal: {', '.join(map(str, LEGAL_BITS))}"
        )
    size = read_group_size(_first(keys, "group_size", "q_group_size"), where=where)
    return Scheme(bits, size, read_flag(keys.get("sym"), key="sym", where=where, missing=True))


def _first(keys: Mapping[str, Any], *names: str) -> Any:
    """Return the value of the first name that has one."""
    return next((keys[name] for name in names if keys.get(name) is not None), None)
