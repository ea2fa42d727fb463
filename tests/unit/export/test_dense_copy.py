from __future__ import annotations

import copy

import torch

from autoround.core.rounding import dense_weight
from autoround.export.dense_copy import write_dequantized

from ...runs import even_device, make_session, quantized
from ...tiny import make_model, token_ids

__all__ = ["even_device"]


def test_the_copy_has_the_dequantized_weights_and_the_model_its_own() -> None:
    model = make_model("llama")
    session = make_session(model, data=token_ids(4, 16))
    layers = quantized(session)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    dense = write_dequantized(copy.deepcopy(model), session.skeleton, session.plan, layers=layers)
    assert layers
    for name, layer in layers.items():
        assert torch.equal(dense.get_parameter(f"{name}.weight"), dense_weight(layer)), name
    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    name = "model.embed_tokens.weight"
    assert torch.equal(dense.get_parameter(name), before[name])
