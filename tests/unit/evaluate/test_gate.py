"""What a written model may fail in, on tiny models that are broken on purpose."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from autoround.evaluate.gate import (
    Exam,
    bound_failure,
    continuations,
    judge,
    non_finite_logits,
    repeated_period,
    repetition_failures,
)
from autoround.evaluate.models import load_any
from autoround.recipe.gate import parse_gate
from autoround.types import EvalResult

from ...tiny import token_ids

IDS = token_ids(1, 200)[0]


def exam(bounds: str, original: Any = None) -> Exam:
    opening = None if original is None else lambda: original
    return Exam(parse_gate(bounds), IDS, 50, "cpu", original, opening)


class Babbler:
    """A model that continues every prompt with the same tokens."""

    config = None
    device = torch.device("cpu")

    def __init__(self, *written: int) -> None:
        self.written = written

    def generate(self, *, input_ids: Tensor, max_new_tokens: int, **options: Any) -> Tensor:
        new = [self.written[i % len(self.written)] for i in range(max_new_tokens)]
        return torch.cat([input_ids, torch.tensor([new])], 1)


def test_a_sound_model_passes(checkpoint: Callable[[str], Path]) -> None:
    folder = checkpoint("llama")
    verdict = judge(folder, exam("ppl<=1.001x,kl<=0.001,top1>=1", load_any(folder, device="cpu")))
    assert verdict.failures == ()
    assert verdict.figures is not None
    assert verdict.figures.kl == pytest.approx(0.0, abs=1e-9)


def test_each_bound_that_is_missed_is_a_sentence(checkpoint: Callable[[str], Path]) -> None:
    folder = checkpoint("llama")
    other = load_any(folder, device="cpu")
    with torch.no_grad():
        other.get_output_embeddings().weight.mul_(3.0)
    verdict = judge(folder, exam("ppl<=1.5,kl<=0.0001", other))
    assert [text.split(" is ")[0] for text in verdict.failures] == ["perplexity", "KL divergence"]
    assert all("and the gate asks for" in text for text in verdict.failures)


def test_nan_is_a_failure_in_words(checkpoint: Callable[[str], Path]) -> None:
    model = load_any(checkpoint("llama"), device="cpu")
    assert non_finite_logits(model, IDS) == ""
    with torch.no_grad():
        model.get_output_embeddings().weight[0] = math.nan
    assert non_finite_logits(model, IDS) == ("its logits hold NaN or infinity at 200 of 200 tokens")


def test_what_cannot_be_loaded_or_run_is_a_failure(tmp_path: Path) -> None:
    verdict = judge(tmp_path, exam("ppl<=2"))
    assert verdict.figures is None
    assert verdict.failures[0].startswith("it cannot be loaded: ")
    broken: Any = SimpleNamespace(device="cpu")
    assert non_finite_logits(broken, IDS).startswith("it cannot be run: ")


def test_what_writes_nothing_is_a_failure(checkpoint: Callable[[str], Path]) -> None:
    folder = checkpoint("llama")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(load_any(folder, device="cpu")), "generate", None)
        verdict = judge(folder, exam("ppl<=1000000"))
    assert len(verdict.failures) == 1
    assert verdict.failures[0].startswith("it generates no text: ")


def test_repetition_counts_where_the_original_does_not_repeat() -> None:
    babbler = Babbler(*range(1, 12))
    sound, looping = continuations(babbler, IDS), continuations(Babbler(7, 8), IDS)
    assert repetition_failures(sound, exam("ppl<=2", babbler)) == []
    assert repetition_failures(looping, exam("ppl<=2", babbler)) == [
        "3 of its 3 continuations of the text repeat the same 2 tokens over and over "
        "(the original: 0)"
    ]
    assert repetition_failures(looping, exam("ppl<=2", Babbler(7, 8))) == []
    assert repetition_failures(continuations(Babbler(5), IDS), exam("ppl<=2")) == [
        "3 of its 3 continuations of the text repeat one token over and over"
    ]


@pytest.mark.parametrize(
    ("ids", "period"),
    [
        ([5] * 40, 1),
        ([1, 2, 3, *[4, 5] * 20], 2),
        ([1, 2, 3] * 12, 3),
        ([1, 2, 3, 4, 5] * 10, 0),
        (list(range(40)), 0),
        ([*range(30), 9, 9, 9, 9], 0),
        ([7] * 11, 0),
        ([], 0),
    ],
)
def test_a_cycle_that_tokens_end_in(ids: list[int], period: int) -> None:
    assert repeated_period(ids) == period


@pytest.mark.parametrize(
    ("bound", "failure"),
    [
        ("ppl<=12", ""),
        ("ppl<=11", "perplexity is 12, and the gate asks for ppl<=11"),
        ("ppl<=1.2x", ""),
        ("ppl<=1.1x", "perplexity is 1.2 times the original's, and the gate asks for ppl<=1.1x"),
        ("kl<=0.05", "KL divergence is 0.1 nats per token, and the gate asks for kl<=0.05"),
        ("top1>=0.9", ""),
        ("top1>=0.91", "top-1 agreement is 0.9, and the gate asks for top1>=0.91"),
    ],
)
def test_a_bound_is_met_or_missed_by_so_much(bound: str, failure: str) -> None:
    assert bound_failure(parse_gate(bound)[0], EvalResult(12.0, 5, 10.0, 0.1, 0.9)) == failure


@pytest.mark.parametrize("bound", ["ppl<=9", "ppl<=2x", "kl<=1", "top1>=0.1"])
def test_no_number_meets_no_bound(bound: str) -> None:
    figures = EvalResult(math.nan, 5, 10.0, math.nan, math.nan)
    assert "is no number" in bound_failure(parse_gate(bound)[0], figures)
