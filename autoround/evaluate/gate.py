"""A written model held to a gate: loaded as a user loads it, run, asked for text, and scored."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autoround.errors import AutoRoundError, one_line
from autoround.evaluate.models import load_runnable
from autoround.evaluate.perplexity import OnWindow, evaluate
from autoround.model.files.gate_mark import GateFailedWarning
from autoround.model.positions import text_config
from autoround.recipe.gate import Bound
from autoround.types import EvalResult

#: Continuations that are asked for, tokens of each prompt, and new tokens.
PROMPTS, PROMPT_TOKENS, NEW_TOKENS = 3, 32, 48
#: Longest cycle of tokens that counts as repetition; sentences that come back are longer.
MAX_PERIOD = 4
#: Continuations that repeat themselves beyond those of the original: one may be chance.
TOO_MANY = 2


@dataclass(frozen=True, slots=True)
class Exam:
    """What written models are judged on.

    bounds: on the figures. ids: of the text, int64 [n]. seqlen: tokens of a window. device: by
    name. reference: the unquantized model, or what is recorded of it; None where it is not at hand.
    open_original: loads it; None where it is not at hand.
    """

    bounds: tuple[Bound, ...]
    ids: Tensor
    seqlen: int
    device: str
    reference: Any | None = None
    open_original: Callable[[], Any] | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a gate.

    figures: None where the model puts out NaN or infinity. failures: a sentence each; empty where
    all bounds are met.
    """

    figures: EvalResult | None
    failures: tuple[str, ...]


def judge(folder: Path, exam: Exam, *, on_window: OnWindow | None = None) -> Verdict:
    """Load a written model as a user does, and hold it to the bounds of a gate.

    Packed layers stay packed and run by the kernel that is the fastest here.

    Args:
        folder: of the model.
        exam: what it is judged on.
        on_window: called with the number of windows that are scored, and of all.

    Returns:
        The figures, and what they or the model fail in.

    Raises:
        DataError, UsageError: the text cannot be scored by the models.
    """
    try:
        with warnings.catch_warnings():
            # The folder is marked until it has passed.
            warnings.simplefilter("ignore", GateFailedWarning)
            model = load_runnable(folder, device=exam.device)
    except AutoRoundError as error:
        return Verdict(None, (f"it cannot be loaded: {one_line(error)}",))
    broken = non_finite_logits(model, exam.ids[: exam.seqlen])
    if broken:
        return Verdict(None, (broken,))
    written, failures = _try_continuations(model, exam.ids)
    figures = evaluate(
        model, exam.ids, seqlen=exam.seqlen, reference=exam.reference, on_window=on_window
    )
    # The original may have to be loaded for what comes now.
    del model
    failures += repetition_failures(written, exam)
    failures += [text for bound in exam.bounds if (text := bound_failure(bound, figures))]
    return Verdict(figures, tuple(failures))


@torch.no_grad()
def non_finite_logits(model: Any, ids: Tensor) -> str:
    """Run a model on one batch, and say that its logits are not finite; empty where they are.

    Args:
        model: a causal language model of transformers.
        ids: int64 [n].
    """
    try:
        logits = model(input_ids=ids[None].to(model.device), use_cache=False).logits[0]
    except Exception as error:  # somebody else's code fails in many unrelated ways
        return f"it cannot be run: {one_line(error)}"
    broken = int((~logits.isfinite()).any(-1).sum())
    if not broken:
        return ""
    return f"its logits hold NaN or infinity at {broken} of {len(logits)} tokens"


def _try_continuations(model: Any, ids: Tensor) -> tuple[list[list[int]], list[str]]:
    """Let a model continue the text in a few places; returns what it writes, or why it does not."""
    try:
        return continuations(model, ids), []
    except Exception as error:  # somebody else's code fails in many unrelated ways
        return [], [f"it generates no text: {one_line(error)}"]


def repetition_failures(written: Sequence[Sequence[int]], exam: Exam) -> list[str]:
    """Say that continuations of the text repeat a few tokens for ever.

    Args:
        written: new tokens of each continuation, by the written model.
        exam: has the text, and loads the original, whose own repetitions do not count.

    Returns:
        Sentences; empty where the continuations are sound.
    """
    count = sum(repeated_period(ids) > 0 for ids in written)
    if count < TOO_MANY:
        return []
    before = 0
    if exam.open_original is not None:
        original = continuations(exam.open_original(), exam.ids)
        before = sum(repeated_period(ids) > 0 for ids in original)
    if count - before < TOO_MANY:
        return []
    period = max(map(repeated_period, written))
    plural = f"the same {period} tokens" if period > 1 else "one token"
    beside = f" (the original: {before})" if exam.open_original is not None else ""
    return [
        f"{count} of its {len(written)} continuations of the text repeat {plural} over and over"
        f"{beside}"
    ]


@torch.no_grad()
def continuations(model: Any, ids: Tensor) -> list[list[int]]:
    """Continue a text greedily in a few places.

    Args:
        model: a causal language model of transformers.
        ids: of the text, int64 [n].

    Returns:
        The new tokens of each.
    """
    # What a config states may be no limit; beyond it transformers warns.
    stated = getattr(text_config(model), "max_position_embeddings", None)
    limit = stated if isinstance(stated, int) else PROMPT_TOKENS + NEW_TOKENS
    length = max(1, min(PROMPT_TOKENS, limit // 3, len(ids) // PROMPTS))
    new = min(NEW_TOKENS, limit - length)
    written = []
    for place in range(PROMPTS):
        start = place * (len(ids) // PROMPTS)
        prompt = ids[start : start + length][None].to(model.device)
        out = model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=new,
            do_sample=False,
            # Only batches are padded; without it transformers warns.
            pad_token_id=0,
        )
        written.append([int(token) for token in out[0, prompt.shape[1] :]])
    return written


def repeated_period(ids: Sequence[int]) -> int:
    """Return the length of the cycle that tokens end in, where they do nothing else for long.

    Args:
        ids: new tokens; fewer than a dozen say nothing.

    Returns:
        1 for one token over and over, up to ``MAX_PERIOD``; 0 for anything else.
    """
    if len(ids) < 3 * MAX_PERIOD:
        return 0
    # The first words may still make sense.
    tail = ids[len(ids) // 4 :]
    for period in range(1, MAX_PERIOD + 1):
        if all(tail[i] == tail[i - period] for i in range(period, len(tail))):
            return period
    return 0


def bound_failure(bound: Bound, figures: EvalResult) -> str:
    """Say that figures miss a bound, and by how much; empty where they meet it.

    Args:
        bound: on one of them.
        figures: with those of the original, where the bound needs it.
    """
    unit, limit = "", bound.limit
    if bound.figure == "ppl":
        value: float | None = figures.perplexity
        name = "perplexity"
        if bound.relative:
            before = figures.reference_perplexity
            value = None if before is None or value is None else value / before
            unit = " times the original's"
    elif bound.figure == "kl":
        value, name, unit = figures.kl, "KL divergence", " nats per token"
    else:
        value, name = figures.top1_agreement, "top-1 agreement"
    if value is None or math.isnan(value):
        return f"{name} is no number, and the gate asks for {bound}"
    met = value >= limit if bound.figure == "top1" else value <= limit
    return "" if met else f"{name} is {value:.4g}{unit}, and the gate asks for {bound}"
