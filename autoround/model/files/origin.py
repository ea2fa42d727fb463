"""Where a model comes from, as its model card or its config says: its name, its terms of use."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from autoround.model.files.embedded import BASE_MODEL, LICENSE
from autoround.model.files.embedded import NAME as EMBEDDED

#: Name of a model card.
CARD_FILE = "README.md"
#: Bytes of a card that are read.
MAX_CARD_BYTES = 1 << 20
#: owner/name, as the hub spells it.
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.\-]*/[A-Za-z0-9][\w.\-]*")
#: A value of the metadata that is carried over: a word, or an address.
_WORD = re.compile(r"[\w.:/\-+ ]{1,200}")


@dataclass(frozen=True, slots=True)
class Origin:
    """What a card says of the original model; None or nothing where it is not known.

    base_model: owner/name. license, license_name, license_link: the terms, as the hub's metadata
    has them. language: codes of languages. pipeline_tag: what the model is for.
    """

    base_model: str | None = None
    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    language: tuple[str, ...] = ()
    pipeline_tag: str | None = None


def read_origin(folder: Path | None, model: str | None) -> Origin:
    """Return where an unquantized model comes from.

    Args:
        folder: Of the model; None for one in memory.
        model: What the user calls it: a hub's name, a path, or the embedded model.
    """
    if model == EMBEDDED:
        return Origin(BASE_MODEL, LICENSE)
    card = {} if folder is None else read_metadata(folder / CARD_FILE)
    license_ = _word(card.get("license"))
    link = _word(card.get("license_link"))
    base = _hub_name(folder, model)
    if license_ == "other" and base and (link is None or ":" not in link):
        # A link within the original's repository.
        link = f"https://huggingface.co/{base}/blob/main/{link or 'LICENSE'}"
    languages = card.get("language")
    listed = languages if isinstance(languages, list) else [languages]
    return Origin(
        base,
        license_,
        _word(card.get("license_name")),
        link,
        tuple(word for word in map(_word, listed) if word),
        _word(card.get("pipeline_tag")),
    )


def read_metadata(path: Path) -> Mapping[str, Any]:
    """Return the metadata in front of a model card; nothing where there is none to be read.

    Args:
        path: Of the card.
    """
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            text = file.read(MAX_CARD_BYTES)
    except OSError:
        return {}
    front, end, _ = text.removeprefix("\ufeff").partition("\n---")
    if not end or not front.startswith("---"):
        return {}
    try:
        # Aliases would let a few lines stand for gigabytes.
        loader: Any = yaml.SafeLoader(front)
        values: object = None if _has_alias(front) else loader.get_single_data()
    except (yaml.YAMLError, RecursionError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _has_alias(text: str) -> bool:
    return any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text))


def _hub_name(folder: Path | None, model: str | None) -> str | None:
    """Return a model's name on the hub; None where nothing says it."""
    if folder is not None and folder.parent.name == "snapshots":
        # models--ORG--NAME/snapshots/COMMIT in the hub's cache.
        parts = folder.parent.parent.name.split("--")
        name = "/".join(parts[1:])
        if len(parts) == 3 and parts[0] == "models" and _HUB_ID.fullmatch(name):
            return name
    name = (model or "").partition("@")[0]
    # A relative path may look like one of the hub's names.
    is_path = folder is not None and Path(name).expanduser().exists()
    return name if _HUB_ID.fullmatch(name) and not is_path else None


def _word(value: object) -> str | None:
    """Return a value that is a word or an address; None for any other."""
    return value if isinstance(value, str) and _WORD.fullmatch(value) else None
