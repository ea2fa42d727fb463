"""The config.json of a written model: the original's, with what a run changed."""

from __future__ import annotations

from typing import Any

from autoround.model.build import plain_floats
from autoround.model.files.legacy_config import with_legacy_keys
from autoround.model.files.locate import read_config
from autoround.model.files.quantization_config import without_quantization
from autoround.model.skeleton import Skeleton


def untie(config: dict[str, Any]) -> None:
    """Say that the output head has a weight of its own, wherever a config says the opposite."""
    config["tie_word_embeddings"] = False
    for part in config.values():
        if isinstance(part, dict) and "tie_word_embeddings" in part:
            part["tie_word_embeddings"] = False


def model_config(skeleton: Skeleton, architecture: str, dtype: str) -> dict[str, Any]:
    """Return the original's config with the dtype that is written, for old readers too."""
    if skeleton.folder is not None:
        # The file as it is: transformers would add the defaults of its own version.
        config = read_config(skeleton.folder)
    else:
        config = skeleton.config.to_dict()
    config.setdefault("architectures", None)
    if not config["architectures"]:
        config["architectures"] = [architecture]
    # What the original says of its own files; transformers 5 calls the first one dtype.
    config = without_quantization(config)
    config.pop("torch_dtype", None)
    config["dtype"] = dtype
    return with_harmless_keys(config, with_legacy_keys(config), type(skeleton.config))


def with_harmless_keys(config: dict[str, Any], more: dict[str, Any], kind: Any) -> dict[str, Any]:
    """Add those keys of a larger config that its class reads the same config with.

    Args:
        config: as it is read today.
        more: the same with further keys.
        kind: the class of transformers that reads it.

    Returns:
        The config with some of the further keys, or none.
    """
    plain = _as_read(config, kind)
    for key in more.keys() - config.keys():
        candidate = {**config, key: more[key]}
        read = _as_read(candidate, kind)
        if read is not None and plain is not None and _same_but(read, plain, key):
            config = candidate
            plain = read
    return config


def _same_but(read: dict[str, Any], plain: dict[str, Any], key: str) -> bool:
    """Tell whether two configs differ in nothing but a key that one of them has."""
    return all(value == read.get(name) for name, value in plain.items() if name != key) and (
        read.keys() - plain.keys() <= {key}
    )


def _as_read(config: dict[str, Any], kind: Any) -> dict[str, Any] | None:
    """Return a config as its class reads it; None where it refuses it."""
    try:
        values: dict[str, Any] = kind.from_dict(plain_floats(config)).to_dict()
    except Exception:  # classes check their values in many unrelated ways
        return None
    return values
