"""Rates of a loaded model."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from autoround.errors import ModelError, UsageError
from autoround.evaluate.bench import RUNS, cache_of, rates, weight_bytes

from ...tiny import make_model


def test_a_loaded_model_is_measured() -> None:
    model = make_model("llama").float()
    measured = rates(model, "tiny", "cpu", (8, 2))
    assert (measured.model, measured.dtype, measured.kernels) == ("tiny", "float32", "unquantized")
    assert measured.prefill > 0
    assert measured.decode > 0
    assert measured.weight_bytes == weight_bytes(model)
    assert measured.peak_bytes > 0


def test_more_tokens_than_positions_are_refused() -> None:
    model = make_model("gpt2")
    limit = model.config.max_position_embeddings
    with pytest.raises(UsageError, match=f"positions for {limit} only"):
        rates(model, "tiny", "cpu", (limit, 1))


def test_shared_weights_count_once() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    assert weight_bytes(model) == 2 * 16 * 4
    model[1].weight = model[0].weight
    model.register_buffer("steps", torch.zeros(3, dtype=torch.int64))
    assert weight_bytes(model) == 16 * 4 + 3 * 8


class Remembering(nn.Module):
    """A language model that takes and gives its cache by one name alone, and counts its tokens."""

    dtype = torch.float32
    device = torch.device("cpu")

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.config = SimpleNamespace(max_position_embeddings=64)
        self.embedding = nn.Embedding(8, 4)
        self.lengths: list[int] = []

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    def forward(
        self, input_ids: torch.Tensor, use_cache: bool, logits_to_keep: int = 0, **cache: int
    ) -> Any:
        assert use_cache
        assert set(cache) <= {self.name}, f"forward() got an unexpected argument: {cache}"
        self.lengths.append(cache.get(self.name, 0) + input_ids.shape[1])
        logits = self.embedding(input_ids) @ self.embedding.weight.T
        return SimpleNamespace(logits=logits, **{self.name: self.lengths[-1]})


# transformers from 5.24 on, where the older names end with 5.40; before it; its state-space models.
@pytest.mark.parametrize("name", ["cache", "past_key_values", "cache_params"])
def test_the_cache_goes_on_by_the_name_it_came_by(name: str) -> None:
    model = Remembering(name)
    assert rates(model, "tiny", "cpu", (8, 3)).decode > 0
    assert model.lengths == [2, *[8, 9, 10, 11] * RUNS]


@pytest.mark.filterwarnings("error")
def test_the_cache_of_the_installed_transformers_is_taken_without_a_word() -> None:
    output = make_model("llama").float()(input_ids=torch.ones(1, 3, dtype=torch.long))
    (cache,) = cache_of(output).values()
    assert cache.get_seq_length() == 3


def test_a_model_without_a_cache_cannot_be_measured() -> None:
    with pytest.raises(ModelError, match="keeps no cache"):
        cache_of(SimpleNamespace(logits=None))
