"""What is kept of a model for its logits on a text, beside the model itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from autoround.errors import UsageError
from autoround.evaluate.perplexity import evaluate, window_logits, windows
from autoround.evaluate.reference import RecordedModel, count_from, record
from autoround.model.blocks import decoder_blocks

from ...tiny import make_model, token_ids

IDS = token_ids(1, 100)[0]


def block_parameters(model: Any) -> list[torch.nn.Parameter]:
    return [p for path in decoder_blocks(model) for p in model.get_submodule(path).parameters()]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt", "qwen3"])
def test_logits_are_the_same_bits_without_the_blocks(kind: str) -> None:
    model, other = make_model(kind).eval(), make_model(kind, seed=1).eval()
    whole = [window_logits(model, window) for window in windows(IDS, 32)]
    figures = evaluate(other, IDS, seqlen=32, reference=model)
    recorded = record(model, IDS, seqlen=32)
    assert isinstance(recorded, RecordedModel)
    assert all(p.is_meta for p in block_parameters(model))
    for logits, window in zip(whole, windows(IDS, 32), strict=True):
        assert torch.equal(window_logits(recorded, window), logits)
    assert evaluate(other, IDS, seqlen=32, reference=recorded) == figures
    with pytest.raises(KeyError):
        window_logits(recorded, IDS[:31])


def test_windows_are_counted() -> None:
    told: list[tuple[int, int]] = []
    on_window = count_from(lambda done, of: told.append((done, of)), 4, 8)
    record(make_model("llama"), IDS, seqlen=32, on_window=on_window)
    assert told == [(5, 8), (6, 8), (7, 8), (8, 8)]


def test_a_model_whose_states_would_be_larger_than_its_blocks_stays_whole() -> None:
    model = make_model("llama")
    long = token_ids(1, 5000)[0]
    assert record(model, long, seqlen=32) is model
    assert not any(p.is_meta for p in block_parameters(model))


def test_a_model_that_makes_other_logits_of_the_states_stays_whole() -> None:
    model = make_model("llama").eval()
    last = model.get_submodule(decoder_blocks(model)[-1])
    seen: list[torch.Tensor] = []
    last.mlp.register_forward_hook(lambda module, args, output: seen.append(output))
    # The head sees more than what the last block puts out.
    model.model.norm.register_forward_hook(lambda module, args, output: output + seen.pop())
    window = next(windows(IDS, 32))
    before = window_logits(model, window)
    assert record(model, IDS, seqlen=32) is model
    assert torch.equal(window_logits(model, window), before)


def test_a_model_that_runs_its_blocks_twice_stays_whole() -> None:
    model = make_model("llama").eval()
    forward = model.model.forward

    def twice(*args: Any, **kwargs: Any) -> Any:
        forward(*args, **kwargs)
        return forward(*args, **kwargs)

    model.model.forward = twice
    assert record(model, IDS, seqlen=32) is model


def test_windows_that_the_model_cannot_take_are_refused_first() -> None:
    with pytest.raises(UsageError, match="positions for 64 only"):
        record(make_model("gpt2"), IDS, seqlen=65)
