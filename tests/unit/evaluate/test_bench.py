"""Rates of a loaded model."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from autoround.errors import UsageError
from autoround.evaluate.bench import rates, weight_bytes

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
