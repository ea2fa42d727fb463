"""Chat templates in a GGUF header: the default one, and others by name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from autoround.errors import FormatError
from autoround.gguf.fields import Field

DEFAULT = "default"


def template_fields(templates: Any) -> list[Field]:
    """Return the entries of a tokenizer's chat templates.

    Args:
        templates: A text; several by name, as transformers has them; a list of names with
            templates, as older files of it do; or None.

    Raises:
        FormatError: A list of something else.
    """
    named = _by_name(templates)
    fields = [
        Field("tokenizer.chat_template" + (f".{key}" if key != DEFAULT else ""), text, "text")
        for key, text in named.items()
    ]
    others = [key for key in named if key != DEFAULT]
    if others:
        fields.append(Field("tokenizer.chat_templates", others, "texts"))
    return fields


def _by_name(templates: Any) -> dict[str, str]:
    if isinstance(templates, str):
        return {DEFAULT: templates}
    if isinstance(templates, Mapping):
        # Keys of a header have few characters; readers of them look for an underscore.
        return {re.sub(r"[^A-Za-z0-9]", "_", str(k)): str(v) for k, v in templates.items()}
    if isinstance(templates, Sequence):
        try:
            return _by_name({entry["name"]: entry["template"] for entry in templates})
        except (KeyError, TypeError):
            raise FormatError(
                "GGUF: the tokenizer's chat_template is a list of something else than names with "
                'templates, {"name": ..., "template": ...}'
            ) from None
    return {}
