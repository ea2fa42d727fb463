"""Keys of a config under the names that programs older than transformers 5 look for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def with_older_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """Say what ``rope_parameters`` holds also in the keys that came before it.

    mlx-lm and others know ``rope_theta`` and ``rope_scaling`` only, and fall back to a
    default without a word, which makes another model of the same weights. Keys that are
    there already stay as they are.
    """
    found = dict(config)
    held = found.get("rope_parameters")
    if not isinstance(held, Mapping):
        return found
    whole = held.get("full_attention", held)
    if not isinstance(whole, Mapping) or whole.get("rope_theta") is None:
        return found
    older: dict[str, Any] = {"rope_theta": whole["rope_theta"]}
    if whole.get("partial_rotary_factor") is not None:
        older["partial_rotary_factor"] = whole["partial_rotary_factor"]
    if whole.get("rope_type", "default") != "default":
        older["rope_scaling"] = {key: whole[key] for key in whole if key not in older}
    sliding = held.get("sliding_attention")
    if isinstance(sliding, Mapping) and sliding.get("rope_theta") is not None:
        older["rope_local_base_freq"] = sliding["rope_theta"]
    return {**found, **{key: value for key, value in older.items() if key not in found}}
