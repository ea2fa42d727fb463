"""Figures of a model's quality, kept as JSON in the folder that holds it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoround.storage.durable import write_text
from autoround.storage.json_text import to_json
from autoround.types import EvalResult

#: The file, beside plan.json.
FIGURES_FILE = "eval.json"


def figures_of(scores: EvalResult, *, text: str) -> dict[str, Any]:
    """Return scores under the names that they have in a file; None for what was not measured.

    Args:
        scores: of a model, alone or beside its original.
        text: name of the text that was scored.

    Returns:
        ``perplexity``, ``original_perplexity``, ``kl`` (nats per token), ``top1`` (a fraction),
        ``text`` and ``tokens``.
    """
    return {
        "perplexity": scores.perplexity,
        "original_perplexity": scores.reference_perplexity,
        "kl": scores.kl,
        "top1": scores.top1_agreement,
        "text": text,
        "tokens": scores.tokens,
    }


def save_figures(folder: Path, figures: Mapping[str, Any]) -> None:
    """Write figures into the folder of a model, over those that are there.

    Args:
        folder: of the model.
        figures: values of JSON by name; NaN and infinity are written as null.

    Raises:
        OutputError: they cannot be written.
    """
    write_text(folder / FIGURES_FILE, to_json(dict(figures), indent=1) + "\n")
