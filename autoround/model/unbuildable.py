"""Why no causal language model can be made of a config, and what can be done."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from autoround.errors import one_line

#: Endings of the names of classes that can be quantized.
_LANGUAGE = ("ForCausalLM", "ForConditionalGeneration")


def why_unbuildable(config: Mapping[str, Any], error: Exception) -> str:
    """Say why transformers makes no causal language model of a config.

    Args:
        config: as it stands in config.json.
        error: what transformers raised.
    """
    from transformers import CONFIG_MAPPING, __version__

    kind = config.get("model_type")
    if isinstance(kind, str) and kind not in CONFIG_MAPPING:
        close = difflib.get_close_matches(kind, list(CONFIG_MAPPING), n=1, cutoff=0.75)
        hint = f"; it has {close[0]}" if close else ""
        reason = f"transformers {__version__} has no model_type {kind}{hint}"
        if config.get("auto_map"):
            reason += (
                ", and code that comes with a model is never run (there is no trust_remote_code "
                "here): look for a checkpoint that was converted to a class of transformers"
            )
        return f"{reason}; a newer transformers may have it"
    if "Unrecognized configuration class" not in str(error):
        return one_line(error, 300)
    parts = _language_parts(config)
    if parts:
        name, cls = parts[0]
        return (
            f"a {kind} is made of several models, and transformers has no class for generating "
            f"text with all of it; its {name} can be quantized alone: save it with "
            f"transformers.{cls}.from_pretrained(FOLDER).save_pretrained(OTHER), and name OTHER"
        )
    return f"a {kind} is no causal language model, with or without a vision tower"


def _language_parts(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the parts of a composite config that are language models: name and class."""
    import transformers
    from transformers.models.auto import modeling_auto

    names = {
        **dict(modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES),
        **dict(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
    }
    parts = []
    for name, part in config.items():
        kind = part.get("model_type") if isinstance(part, dict) else None
        cls = names.get(kind) if isinstance(kind, str) else None
        if isinstance(cls, str) and cls.endswith(_LANGUAGE) and hasattr(transformers, cls):
            parts.append((name.removesuffix("_config"), cls))
    return parts
