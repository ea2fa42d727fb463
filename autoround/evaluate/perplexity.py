"""Perplexity of a model on a text, and the KL divergence of its logits from a reference's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor

from autoround.data.encode import check_ids
from autoround.errors import DataError, UsageError
from autoround.model.positions import position_limit, vocabulary_size
from autoround.types import EvalResult

#: Rows of logits compared at a time: a vocabulary of 150,000 in float32 is 77 MB a chunk.
ROWS = 128
#: Is told how many windows are scored, of how many.
OnWindow: TypeAlias = Callable[[int, int], None]


def windows(ids: Tensor, seqlen: int) -> Iterator[Tensor]:
    """Yield consecutive windows of a text; a shorter last one is used if it has 2 tokens.

    Args:
        ids: Token ids, int64 [n].
        seqlen: Tokens of a window.
    """
    for start in range(0, len(ids), seqlen):
        part = ids[start : start + seqlen]
        if len(part) >= 2:
            yield part


@torch.no_grad()
def evaluate(
    model: Any,
    ids: Tensor,
    *,
    seqlen: int,
    reference: Any | None = None,
    on_window: OnWindow | None = None,
) -> EvalResult:
    """Score a model on a text, each window by itself, its first token unscored.

    Args:
        model: A causal language model of transformers.
        ids: Token ids of the text, int64 [n].
        seqlen: Tokens of a window.
        reference: The unquantized model, with the same vocabulary, or what ``record`` keeps of
            it; None to score perplexity alone.
        on_window: Called with the number of windows that are scored, and of all.

    Returns:
        Perplexity and the number of scored tokens; with a reference also its perplexity, the
        mean KL divergence KL(reference ‖ model) in nats a token, and top-1 agreement, the
        fraction of tokens where both have the same most likely one.

    Raises:
        DataError: The text has fewer than two tokens, or some that a model does not know.
        UsageError: seqlen is less than two, or more than a model has positions for.
    """
    for scored in (model, *([] if reference is None else [reference])):
        check_windows(scored, ids, seqlen=seqlen)
    loss = reference_loss = divergence = 0.0
    agreed = count = 0
    parts = list(windows(ids, seqlen))
    for number, window in enumerate(parts, start=1):
        logits = window_logits(model, window)
        reference_logits = None if reference is None else window_logits(reference, window)
        labels = window[1:].to(logits.device)
        # A few rows at a time: float32 log-probabilities of all would outgrow the logits.
        for rows in torch.arange(len(labels)).split(ROWS):
            log_probs = torch.log_softmax(logits[rows].float(), -1)
            loss -= float(log_probs.gather(1, labels[rows, None]).double().sum())
            if reference_logits is not None:
                expected = reference_logits[rows].float().to(log_probs.device)
                expected = torch.log_softmax(expected, -1)
                reference_loss -= float(expected.gather(1, labels[rows, None]).double().sum())
                # KL(p ‖ q) = Σ p (log p − log q), p of the reference.
                divergence += float(
                    (expected.exp() * (expected - log_probs)).sum(-1).double().sum()
                )
                agreed += int((expected.argmax(-1) == log_probs.argmax(-1)).sum())
        count += len(labels)
        if on_window is not None:
            on_window(number, len(parts))
    if reference is None:
        return EvalResult(_exp(loss / count), count)
    return EvalResult(
        _exp(loss / count), count, _exp(reference_loss / count), divergence / count, agreed / count
    )


def check_windows(model: Any, ids: Tensor, *, seqlen: int) -> None:
    """Refuse a text that is too short, and windows that a model cannot take.

    Args:
        model: A causal language model of transformers.
        ids: Token ids of the text, int64 [n].
        seqlen: Tokens of a window.

    Raises:
        DataError: The text has fewer than two tokens, or some that the model does not know.
        UsageError: seqlen is less than two, or more than the model has positions for.
    """
    if seqlen < 2:
        raise UsageError(f"seqlen is {seqlen}; a window needs 2 tokens to score one")
    if len(ids) < 2:
        raise DataError(f"a text of {len(ids)} tokens cannot be scored; give a longer one")
    size = vocabulary_size(model)
    check_ids(int(ids.min()), int(ids.max()), vocab_size=size, where="the text")
    limit = position_limit(model)
    if limit is not None and min(seqlen, len(ids)) > limit:
        raise UsageError(
            f"windows of {seqlen} tokens, and the model has positions for {limit} only; "
            f"use a seqlen of {limit} or less"
        )


def window_logits(model: Any, window: Tensor) -> Tensor:
    """Return the logits of all tokens of a window but the last, [n - 1, vocabulary].

    Args:
        model: A causal language model of transformers.
        window: Token ids, int64 [n].
    """
    logits: Tensor = model(input_ids=window[None].to(model.device), use_cache=False).logits
    return logits[0, :-1]


def _exp(value: float) -> float:
    # A broken model has a loss that math.exp cannot take.
    return math.exp(value) if value < 700 else math.inf
