from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoround.errors import DataError, UsageError
from autoround.evaluate import perplexity
from autoround.evaluate.perplexity import evaluate, windows

from ...tiny import VOCAB, make_model, token_ids


class Fixed:
    """A model whose logits depend on the last token only, by a table [vocabulary, vocabulary]."""

    device = torch.device("cpu")

    def __init__(self, table: Tensor) -> None:
        self.table = table

    def __call__(self, *, input_ids: Tensor, use_cache: bool) -> Any:
        return SimpleNamespace(logits=self.table[input_ids])


def uniform() -> Fixed:
    return Fixed(torch.zeros(VOCAB, VOCAB))


def cross_entropy(model: Any, ids: Tensor, seqlen: int) -> tuple[float, int]:
    """Compute loss and count in one piece a window, by torch's own function."""
    loss, count = 0.0, 0
    for part in ids.split(seqlen):
        if len(part) > 1:
            with torch.no_grad():
                logits = model(input_ids=part[None], use_cache=False).logits[0, :-1]
            loss += float(nn.functional.cross_entropy(logits.double(), part[1:], reduction="sum"))
            count += len(part) - 1
    return loss, count


@pytest.mark.parametrize(
    ("count", "seqlen", "lengths"),
    [
        (10, 4, [4, 4, 2]),
        (9, 4, [4, 4]),  # a single token predicts nothing
        (8, 4, [4, 4]),
        (3, 4, [3]),
        (2, 2, [2]),
        (1, 4, []),
        (0, 4, []),
    ],
)
def test_windows(count: int, seqlen: int, lengths: list[int]) -> None:
    parts = list(windows(torch.arange(count), seqlen))
    assert [len(part) for part in parts] == lengths
    assert torch.cat([torch.arange(0), *parts]).tolist() == list(range(sum(lengths)))


@pytest.mark.parametrize("seqlen", [8, 16, 20, 64])
def test_perplexity_is_that_of_the_cross_entropy(seqlen: int) -> None:
    model = make_model("llama")
    ids = token_ids(1, 50)[0]
    loss, count = cross_entropy(model, ids, seqlen)
    result = evaluate(model, ids, seqlen=seqlen)
    assert result.tokens == count
    assert result.perplexity == pytest.approx(math.exp(loss / count), rel=1e-5)
    assert (result.reference_perplexity, result.kl, result.top1_agreement) == (None, None, None)


def test_windows_do_not_see_each_other() -> None:
    model = make_model("llama")
    ids = token_ids(1, 32)[0]
    both = evaluate(model, ids, seqlen=16)
    halves = [evaluate(model, half, seqlen=16) for half in ids.split(16)]
    logs = [math.log(half.perplexity) for half in halves]
    assert math.log(both.perplexity) == pytest.approx(sum(logs) / 2, rel=1e-6)
    assert evaluate(model, ids, seqlen=32).perplexity != pytest.approx(both.perplexity, rel=1e-3)


def test_a_model_that_knows_nothing_is_as_wide_as_its_vocabulary() -> None:
    result = evaluate(uniform(), token_ids(1, 40)[0], seqlen=16)
    assert result.perplexity == pytest.approx(VOCAB, rel=1e-5)
    assert result.tokens == 15 + 15 + 7


def test_a_model_that_knows_all_has_perplexity_one() -> None:
    ids = torch.arange(4, 60)
    sure = Fixed(torch.roll(torch.eye(VOCAB), 1, dims=1) * 100.0)
    assert evaluate(sure, ids, seqlen=16).perplexity == pytest.approx(1.0)
    wrong = Fixed(torch.eye(VOCAB) * 2000.0)
    assert evaluate(wrong, ids, seqlen=16).perplexity == math.inf


def test_a_model_is_at_no_distance_from_itself() -> None:
    model = make_model("llama")
    result = evaluate(model, token_ids(1, 50)[0], seqlen=16, reference=model)
    assert result.kl == pytest.approx(0.0, abs=1e-9)
    assert result.top1_agreement == 1.0
    assert result.reference_perplexity == result.perplexity


def test_the_distance_is_the_divergence_of_the_model_from_the_reference() -> None:
    generator = torch.Generator().manual_seed(0)
    own = Fixed(torch.randn(VOCAB, VOCAB, generator=generator))
    other = Fixed(torch.randn(VOCAB, VOCAB, generator=generator) * 3)
    ids = token_ids(1, 30)[0]
    result = evaluate(own, ids, seqlen=64, reference=other)
    p = torch.softmax(other.table[ids[:-1]].double(), -1)
    q = torch.softmax(own.table[ids[:-1]].double(), -1)
    assert result.kl == pytest.approx(float((p * (p / q).log()).sum(-1).mean()), rel=1e-5)
    same = p.argmax(-1) == q.argmax(-1)
    assert result.top1_agreement == float(same.double().mean())
    assert result.perplexity == evaluate(own, ids, seqlen=64).perplexity
    assert result.reference_perplexity == evaluate(other, ids, seqlen=64).perplexity
    # It is not the same the other way round.
    back = evaluate(other, ids, seqlen=64, reference=own)
    assert result.kl is not None
    assert back.kl != pytest.approx(result.kl, rel=1e-3)


def test_top1_agreement_counts_positions() -> None:
    ids = torch.tensor([4, 5, 6, 7, 8])
    own, other = torch.eye(VOCAB), torch.eye(VOCAB)
    other[5] = torch.roll(other[5], 1)
    result = evaluate(Fixed(own), ids, seqlen=8, reference=Fixed(other))
    assert result.top1_agreement == 3 / 4


def test_the_size_of_chunks_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    model, other = make_model("llama"), make_model("llama", seed=1)
    ids = token_ids(1, 50)[0]
    whole = evaluate(model, ids, seqlen=40, reference=other)
    monkeypatch.setattr(perplexity, "ROWS", 7)
    chunks = evaluate(model, ids, seqlen=40, reference=other)
    assert chunks.tokens == whole.tokens
    assert chunks.perplexity == pytest.approx(whole.perplexity, rel=1e-9)
    assert chunks.kl == pytest.approx(whole.kl, rel=1e-9)
    assert chunks.top1_agreement == whole.top1_agreement


def test_short_logits_are_compared_in_float32() -> None:
    table = torch.randn(VOCAB, VOCAB, generator=torch.Generator().manual_seed(0)).bfloat16()
    ids = token_ids(1, 20)[0]
    short, exact = Fixed(table), Fixed(table.float())
    assert evaluate(short, ids, seqlen=8) == evaluate(exact, ids, seqlen=8)


def test_no_gradients_are_kept() -> None:
    table = torch.zeros(VOCAB, VOCAB, requires_grad=True)
    assert evaluate(Fixed(table), token_ids(1, 8)[0], seqlen=8).tokens == 7
    assert table.grad is None


@pytest.mark.parametrize("count", [0, 1])
def test_a_text_too_short_is_refused(count: int) -> None:
    with pytest.raises(DataError, match=f"a text of {count} tokens cannot be scored"):
        evaluate(uniform(), token_ids(1, 4)[0, :count], seqlen=8)


@pytest.mark.parametrize("seqlen", [1, 0, -3])
def test_windows_too_short_are_refused(seqlen: int) -> None:
    with pytest.raises(UsageError, match=f"seqlen is {seqlen}; a window needs 2 tokens"):
        evaluate(uniform(), token_ids(1, 8)[0], seqlen=seqlen)


@pytest.mark.parametrize("kind", ["gpt2", "opt"])
def test_windows_longer_than_the_table_of_positions_are_refused(kind: str) -> None:
    model, other = make_model(kind), make_model("llama")
    assert evaluate(model, token_ids(1, 80)[0], seqlen=64).tokens == 63 + 15
    assert evaluate(model, token_ids(1, 60)[0], seqlen=1024).tokens == 59
    for one, reference in ((model, None), (other, model)):
        with pytest.raises(UsageError, match="positions for 64 only; use a seqlen of 64 or less"):
            evaluate(one, token_ids(1, 80)[0], seqlen=65, reference=reference)
