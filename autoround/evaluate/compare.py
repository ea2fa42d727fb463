"""Perplexity of a quantized folder, alone or beside its original."""

from __future__ import annotations

from pathlib import Path

from autoround.data.embedded import embedded_split
from autoround.data.holdout import text_tokens
from autoround.evaluate.models import load_any
from autoround.evaluate.perplexity import OnWindow, evaluate, windows
from autoround.model.files.locate import locate_model
from autoround.model.files.tokenizer import load_tokenizer
from autoround.types import EvalResult


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
        on_window: Called with the number of windows that are scored, and of all; with none of them
            when the models are loaded.

    Returns:
        Perplexities, KL divergence in nats a token, and top-1 agreement.

    Raises:
        DataError: The text cannot be read or tokenized.
        ModelError: A model cannot be loaded.
    """
    folder = locate_model(model)
    tokenizer = load_tokenizer(folder)
    ids = text_tokens(text or embedded_split()[1], tokenizer, max_tokens=max_tokens)
    reference = None if original is None else load_any(original, device=device)
    loaded = load_any(folder, device=device)
    if on_window is not None:
        on_window(0, len(list(windows(ids, seqlen))))
    return evaluate(loaded, ids, seqlen=seqlen, reference=reference, on_window=on_window)
