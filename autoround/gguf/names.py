"""The name of a model as its publisher has it, whatever folder it lies in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: llama.cpp drops spaces after special tokens of models whose name is like this.
_PHI3 = re.compile("phi-?3", re.IGNORECASE)


def published_name(config: Mapping[str, Any], *, folder: Path | None, called: str) -> str:
    """Return the name of a model.

    Args:
        config: The content of its config.json.
        folder: Where its files are; None for a model in memory.
        called: What the user calls it: a hub's name, a path, or anything else.
    """
    if folder is not None:
        # The hub's cache: models--ORG--NAME/snapshots/COMMIT.
        if folder.parent.name == "snapshots":
            return folder.parent.parent.name.split("--")[-1]
        card = _card_name(folder / "README.md")
        if card:
            return card
    stated = str(config.get("_name_or_path") or "")
    # A path says where the model lay when it was saved, not what it is called.
    if re.fullmatch(r"(?![.~])[^/\\:]+(/[^/\\:]+)?", stated):
        return stated.rpartition("/")[2]
    return folder.name if folder is not None else Path(called).name


def _card_name(card: Path) -> str:
    """Return the name that a model card states in its front matter, or an empty text."""
    if not card.is_file():
        return ""
    text = card.read_text(encoding="utf-8", errors="replace")
    front = text.split("\n---", 1)[0] if text.startswith("---\n") else ""
    stated = re.search(r"^model_name:[ \t]*(\S.*)$", front, re.MULTILINE)
    return stated[1].strip().strip("'\"") if stated else ""


def name_for_stripping(name: str, strips: bool) -> str:
    """Return a name from which llama.cpp tells whether special tokens swallow spaces.

    Args:
        name: Of the model.
        strips: Whether the tokenizer drops spaces after its special tokens, as Phi-3's does.
    """
    if strips == bool(_PHI3.search(name)):
        return name
    return f"{name} (phi-3)" if strips else _PHI3.sub("Phi 3", name)
