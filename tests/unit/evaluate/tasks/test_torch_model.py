from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from autoround.errors import DataError
from autoround.evaluate.tasks.model import Request
from autoround.evaluate.tasks.torch_model import TorchTaskModel, cut_at

from ....tiny import VOCAB, make_model, make_tokenizer

REQUESTS = [
    Request((5, 6, 7), (8,)),
    Request((5, 6, 7), (9,)),
    Request((5, 6), (7, 8)),
    Request((0,), (10, 11, 12, 13)),
    Request((20,), (21,)),
]


def reference(model: torch.nn.Module, request: Request) -> tuple[float, bool]:
    """Score a request by itself, in float64, a token at a time."""
    total, greedy = 0.0, True
    for number, token in enumerate(request.continuation):
        ids = torch.tensor([[*request.context, *request.continuation[:number]]])
        with torch.no_grad():
            logits: Tensor = model(input_ids=ids).logits[0, -1].double()
        total += float(logits[token] - torch.logsumexp(logits, 0))
        greedy = greedy and int(logits.argmax()) == token
    return total, greedy


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_batches_score_as_each_request_does_by_itself(batch_size: int) -> None:
    model = make_model("llama").eval()
    calls: list[tuple[int, int]] = []
    scorer = TorchTaskModel(model, make_tokenizer(), batch_size=batch_size)
    answers = scorer.score(REQUESTS, on_answer=lambda *x: calls.append(x))
    for answer, request in zip(answers, REQUESTS, strict=True):
        log_prob, greedy = reference(model, request)
        assert math.isclose(answer.log_prob, log_prob, rel_tol=1e-5)
        assert answer.greedy == greedy
    assert calls[-1] == (5, 5)


def test_the_most_likely_token_is_greedy() -> None:
    model = make_model("llama").eval()
    with torch.no_grad():
        best = int(model(input_ids=torch.tensor([[5, 6]])).logits[0, -1].argmax())
    (answer,) = TorchTaskModel(model, make_tokenizer()).score([Request((5, 6), (best,))])
    assert answer.greedy


def test_requests_of_one_input_are_run_once() -> None:
    model = make_model("llama").eval()
    rows: list[int] = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    TorchTaskModel(model, make_tokenizer()).score(REQUESTS)
    # The first three have the input 5 6 7 in common.
    assert rows == [3]


def test_long_requests_are_cut_and_counted() -> None:
    model = make_model("llama").eval()
    scorer = TorchTaskModel(model, make_tokenizer())
    room = scorer.max_length
    assert room == model.config.max_position_embeddings
    (answer,) = scorer.score([Request((4,) * (room + 5), (9,))])
    log_prob, _ = reference(model, Request((4,) * room, (9,)))
    assert math.isclose(answer.log_prob, log_prob, rel_tol=1e-4)
    assert scorer.truncated == 1


def test_ids_beyond_the_vocabulary_are_refused() -> None:
    scorer = TorchTaskModel(make_model("llama").eval(), make_tokenizer())
    with pytest.raises(DataError, match="does not know"):
        scorer.score([Request((5,), (VOCAB,))])


def test_a_continuation_ends_at_the_first_of_some_texts() -> None:
    scorer = TorchTaskModel(make_model("llama").eval(), make_tokenizer())
    ids = scorer.encode("hello", special=True)
    whole = scorer.generate(ids, until=[], max_new_tokens=8)
    assert len(whole) > 2
    stop = whole[2]
    assert scorer.generate(ids, until=[stop], max_new_tokens=8) == whole[: whole.index(stop)]
    assert cut_at("abc", ["c", "b", ""]) == "a"
    assert cut_at("abc", ["x"]) == "abc"


def test_a_tokenizer_without_a_first_or_last_token_is_refused() -> None:
    tokenizer = make_tokenizer()
    scorer = TorchTaskModel(make_model("llama"), tokenizer)
    assert scorer.prefix_token == tokenizer.bos_token_id
    tokenizer.bos_token = None
    assert scorer.prefix_token == tokenizer.eos_token_id
    tokenizer.eos_token = None
    with pytest.raises(DataError, match="no token that begins or ends"):
        _ = scorer.prefix_token
