"""The config.json of a written model: the original's, with what a run changed."""

from __future__ import annotations

from typing import Any

from autoround.model.files.legacy_config import with_legacy_keys
from autoround.model.files.locate import read_config
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
    for key in ("torch_dtype", "quantization_config", "quantization"):
        config.pop(key, None)
    config["dtype"] = dtype
    return with_legacy_keys(config)
