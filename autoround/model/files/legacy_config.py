"""Legacy config keys: those that programs older than transformers 5 read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def with_legacy_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config that repeats ``rope_parameters`` in the legacy keys.

    mlx-lm and others read ``rope_theta`` and ``rope_scaling`` only. Without them they silently
    use a default, and compute a different model from the same weights.

    Args:
        config: A model's config as in ``config.json``; it is not changed.

    Returns:
        The config with the legacy keys it lacks; keys that are present stay as they are.
    """
    config = dict(config)
    rope = config.get("rope_parameters")
    if not isinstance(rope, Mapping):
        return config
    # Models with sliding windows state one set of parameters for each type of attention.
    full = rope.get("full_attention", rope)
    if not isinstance(full, Mapping) or full.get("rope_theta") is None:
        return config
    legacy: dict[str, Any] = {"rope_theta": full["rope_theta"]}
    if full.get("partial_rotary_factor") is not None:
        legacy["partial_rotary_factor"] = full["partial_rotary_factor"]
    if full.get("rope_type", "default") != "default":
        legacy["rope_scaling"] = {key: full[key] for key in full if key not in legacy}
    sliding = rope.get("sliding_attention")
    if isinstance(sliding, Mapping) and sliding.get("rope_theta") is not None:
        legacy["rope_local_base_freq"] = sliding["rope_theta"]
    return {**config, **{key: value for key, value in legacy.items() if key not in config}}
