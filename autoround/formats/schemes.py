"""Schemes as configs write them."""

from __future__ import annotations

from autoround.types import PER_CHANNEL, PER_TENSOR, Scheme


def most_common(schemes: list[Scheme]) -> Scheme:
    """Return the scheme of most layers; the first one among equals."""
    return max(dict.fromkeys(schemes), key=schemes.count)


def group_key(scheme: Scheme) -> int:
    """Return the group size of a config: a per-tensor scale is written once a channel."""
    return PER_CHANNEL if scheme.group_size == PER_TENSOR else scheme.group_size
