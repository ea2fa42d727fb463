from __future__ import annotations

import pytest
import torch

from autoround.core.rounding import dense_weight
from autoround.model.stacked_experts import as_matrix
from autoround.tuning.dense_weights import dequantize, original_matrices
from autoround.tuning.targets import make_target

from ...runs import NEAREST, make_session, quantized
from ...tiny import make_model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_dequantized_by_layer(dtype: torch.dtype) -> None:
    session = make_session(make_model("llama"), NEAREST)
    weights = quantized(session)
    made = dequantize(session, weights, dtype)
    assert list(made) == list(weights)
    for name, weight in made.items():
        assert torch.equal(weight, dense_weight(weights[name]).to(dtype))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mixtral"])
def test_originals_are_the_same_from_the_host_and_from_where_they_were_tuned(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = make_session(make_model(kind), NEAREST)
    block = session.plan.blocks[0]
    names = session.skeleton.names_under(block.name)
    host = session.skeleton.read(names)
    targets = {
        layer.name: make_target(session, layer, as_matrix(layer, host[layer.tensor]), None)
        for layer in block.quantized
    }
    there = original_matrices(session, block, host, targets)
    monkeypatch.setattr(session.runtime, "own_memory", True)
    held = original_matrices(session, block, {}, targets)
    assert set(there) == set(held) == {layer.name for layer in block.quantized}
    for name, matrix in there.items():
        assert torch.equal(matrix.float(), held[name])
