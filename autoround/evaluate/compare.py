"""Perplexity of a quantized folder, alone or beside its original."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from autoround.data.embedded import embedded_split
from autoround.data.holdout import text_tokens
from autoround.evaluate.models import load_any
from autoround.evaluate.perplexity import OnWindow, evaluate, windows
from autoround.evaluate.reference import count_from, record
from autoround.model.files.locate import locate_model
from autoround.model.files.tokenizer import load_tokenizer
from autoround.types import EvalResult


@dataclass(frozen=True, slots=True)
class ScoredText:
    """A text that several models are scored on, one after the other.

    ids: its tokens, int64 [n]. seqlen: tokens of a window. device: by name. models: how many.
    on_window: told of the windows that are done, of those of all models.
    """

    ids: Tensor
    seqlen: int
    device: str
    models: int
    on_window: OnWindow | None = None

    def on_windows_of(self, number: int) -> OnWindow | None:
        """Return what is told of the windows of one model.

        Args:
            number: of the model, from 0.
        """
        if self.on_window is None:
            return None
        count = len(list(windows(self.ids, self.seqlen)))
        return count_from(self.on_window, number * count, self.models * count)


def read_text(
    model: str | Path,
    text: Path | None = None,
    *,
    max_tokens: int,
) -> Tensor:
    """Read a text into tokens of a model.

    Args:
        model: Folder or hub id, whose tokenizer is taken.
        text: A text file; None for the part of the embedded text that calibration never sees.
        max_tokens: Tokens that are read at most.

    Raises:
        DataError: The text cannot be read or tokenized.
    """
    tokenizer = load_tokenizer(locate_model(model))
    return text_tokens(text or embedded_split()[1], tokenizer, max_tokens=max_tokens)


def compare(
    model: str | Path,
    original: str | Path | None = None,
    *,
    text: Path | None = None,
    seqlen: int = 1024,
    max_tokens: int = 16384,
    device: str = "auto",
    on_window: OnWindow | None = None,
) -> EvalResult:
    """Score a model folder on a text; with an original, also the divergence from it.

    Args:
        model: Folder or hub id of the model.
        original: Folder or hub id of the unquantized model; None to score perplexity alone.
        text: A text file; None for the part of the embedded text that calibration never sees.
        seqlen: Tokens of a window.
        max_tokens: Tokens of the text that are scored at most.
        device: Name of a device, or ``auto``.
        on_window: Called with the number of windows that are done, and of all, those of the
            original counted; with none of them when the first model is loaded.

    Returns:
        Perplexities, KL divergence in nats a token, and top-1 agreement.

    Raises:
        DataError: The text cannot be read or tokenized.
        ModelError: A model cannot be loaded.
    """
    ids = read_text(model, text, max_tokens=max_tokens)
    scored = ScoredText(ids, seqlen, device, 1 if original is None else 2, on_window)
    reference = None if original is None else record_original(original, scored)
    return score(model, scored, reference)


def record_original(
    original: str | Path,
    scored: ScoredText,
    *,
    before: Callable[[Any], object] | None = None,
) -> Any:
    """Load an unquantized model, run it over a text, and keep what its logits are made of.

    Args:
        original: Folder or hub id.
        scored: The text; the original comes first.
        before: Called with the whole model, while it is in memory.

    Returns:
        What :func:`score` compares with.

    Raises:
        ModelError: The model cannot be loaded.
        DataError, UsageError: The text cannot be scored by it.
    """
    loaded = load_any(original, device=scored.device)
    told = scored.on_windows_of(0)
    if told is not None:
        told(0, 0)
    if before is not None:
        before(loaded)
    return record(loaded, scored.ids, seqlen=scored.seqlen, on_window=told)


def score(
    model: str | Path, scored: ScoredText, reference: Any | None, *, number: int | None = None
) -> EvalResult:
    """Load a model and score it on a text.

    Args:
        model: Folder or hub id.
        scored: The text.
        reference: From :func:`record_original`; None to score perplexity alone.
        number: Of the model among those that are scored; by default the last one.

    Returns:
        As :func:`compare` does.

    Raises:
        ModelError: The model cannot be loaded.
        DataError, UsageError: The text cannot be scored by it.
    """
    loaded = load_any(model, device=scored.device)
    told = scored.on_windows_of(scored.models - 1 if number is None else number)
    if told is not None and reference is None:
        told(0, 0)
    return evaluate(loaded, scored.ids, seqlen=scored.seqlen, reference=reference, on_window=told)
