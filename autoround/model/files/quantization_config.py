"""Where a checkpoint says how it is quantized: which key of its config, or which file beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoround.errors import ModelError

#: A config larger than this is not a config.
MAX_BYTES = 16 << 20
#: Keys of config.json, the most common first; compression_config is of older releases.
KEYS = ("quantization_config", "compression_config", "quantization")
#: The part of a config that describes the language model, where others stand beside it.
TEXT = "text_config"
#: Files beside config.json that older programs write, and whose they are by their names.
FILES = {"quantize_config.json": "gptq", "quant_config.json": "awq"}
#: How auto-round calls MLX's files, and the key under which MLX describes them.
_MLX_KIND, _MLX_KEY = "mlx", "quantization"
#: Keys by which a description that does not name its method is known.
_TELLING = {
    "compressed-tensors": ("config_groups",),
    "auto-round": ("packing_format", "autoround_version"),
    "awq": ("zero_point", "w_bit", "q_group_size"),
    "gptq": ("desc_act", "checkpoint_format", "damp_percent", "true_sequential"),
}


def find_quantization(folder: Path, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what a checkpoint says of its quantization, or None where it says nothing.

    Args:
        folder: of the checkpoint.
        config: its config.json.

    Raises:
        ModelError: it is not an object, or a file of its own is not JSON.
    """
    text = config.get(TEXT)
    for part in (config, text if isinstance(text, Mapping) else {}):
        for key in KEYS:
            if part.get(key) is not None:
                return _with_method(_as_table(part[key], f"{folder}: its {key}"), part)
    for file, method in FILES.items():
        path = folder / file
        if path.is_file() and path.stat().st_size <= MAX_BYTES:
            return {"quant_method": method, **_read(path)}
    return None


def without_quantization(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config.json that says nothing of quantization.

    Args:
        config: of a checkpoint.
    """
    plain = {key: value for key, value in config.items() if key not in KEYS}
    text = plain.get(TEXT)
    if isinstance(text, Mapping):
        plain[TEXT] = {key: value for key, value in text.items() if key not in KEYS}
    return plain


def _as_table(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ModelError(f"{what} is not an object")
    return value


def _with_method(described: dict[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a description with its method, where it does not name it itself."""
    kind = str(described.get("packing_format")).rpartition(":")[2]
    if kind == _MLX_KIND and isinstance(config.get(_MLX_KEY), dict):
        # auto-round writes MLX's files with a description of its own beside MLX's, which has more.
        described = config[_MLX_KEY]
    if described.get("quant_method") is not None:
        return described
    plain = {key: value for key, value in described.items() if key != "quant_method"}
    for method, keys in _TELLING.items():
        if any(key in plain for key in keys):
            return {"quant_method": method, **plain}
    return plain


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, RecursionError) as error:
        raise ModelError(f"{path} is not a JSON object: {error}") from error
