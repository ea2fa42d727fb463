"""Perplexity of a model on a text, and how far it is from another model there."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from autoround.errors import DataError, UsageError
from autoround.model.positions import position_limit
from autoround.types import EvalResult

#: Rows of logits compared at a time: a vocabulary of 150,000 in float32 is 77 MB a chunk.
ROWS = 128


def windows(ids: Tensor, seqlen: int) -> Iterator[Tensor]:
    """Cut ids [n] into consecutive windows of ``seqlen``; a last one of 2 or more is used too."""
    for start in range(0, len(ids), seqlen):
        part = ids[start : start + seqlen]
        if len(part) >= 2:
            yield part


@torch.no_grad()
def evaluate(model: Any, ids: Tensor, *, seqlen: int, reference: Any | None = None) -> EvalResult:
    """Score a model on a text, each window by itself, its first token unscored.

    model, reference: transformers causal language models; with a reference the KL
    divergence of the model from it and the share of equal first choices are computed.
    ids: int64 [n].

    Raises:
        DataError: there are fewer than two tokens.
        UsageError: windows of fewer than two tokens are asked for, or of more than the
            model has positions for.
    """
    if seqlen < 2:
        raise UsageError(f"seqlen is {seqlen}; a window needs 2 tokens to score one")
    if len(ids) < 2:
        raise DataError(f"a text of {len(ids)} tokens cannot be scored; give a longer one")
    for one in (model, *([] if reference is None else [reference])):
        limit = position_limit(one)
        if limit is not None and min(seqlen, len(ids)) > limit:
            raise UsageError(
                f"windows of {seqlen} tokens, and the model has positions for {limit} only; "
                f"use a seqlen of {limit} or less"
            )
    loss = reference_loss = divergence = 0.0
    agreed = count = 0
    for part in windows(ids, seqlen):
        logits = _logits(model, part)
        other = None if reference is None else _logits(reference, part)
        labels = part[1:].to(logits.device)
        for rows in torch.arange(len(labels)).split(ROWS):
            own = torch.log_softmax(logits[rows].float(), -1)
            loss -= float(own.gather(1, labels[rows, None]).double().sum())
            if other is not None:
                wanted = torch.log_softmax(other[rows].float().to(own.device), -1)
                reference_loss -= float(wanted.gather(1, labels[rows, None]).double().sum())
                divergence += float((wanted.exp() * (wanted - own)).sum(-1).double().sum())
                agreed += int((wanted.argmax(-1) == own.argmax(-1)).sum())
        count += len(labels)
    if reference is None:
        return EvalResult(_exp(loss / count), count)
    return EvalResult(
        _exp(loss / count), count, _exp(reference_loss / count), divergence / count, agreed / count
    )


def _logits(model: Any, window: Tensor) -> Tensor:
    """Return logits [n - 1, vocabulary] that predict all tokens but the first."""
    logits: Tensor = model(input_ids=window[None].to(model.device), use_cache=False).logits
    return logits[0, :-1]


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf
