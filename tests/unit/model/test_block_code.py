"""Blocks are of a kind when their code is: numbers of layers aside, settings count."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from autoround.model.block_calls import Call
from autoround.model.block_code import call_code, module_code

from ...tiny import make_model


@pytest.mark.parametrize("kind", ["llama", "mixtral"])
def test_blocks_of_a_model_are_of_a_kind(kind: str) -> None:
    model = make_model(kind)
    first, second = model.model.layers
    assert module_code(first) == module_code(second)
    other = make_model(kind).model.layers[0]
    assert module_code(first) != module_code(other), "its config is another object"


@pytest.mark.parametrize(
    "change",
    [
        lambda block: setattr(block.self_attn, "scaling", 0.5),
        lambda block: setattr(block.self_attn, "sliding_window", 8),
        lambda block: setattr(block.mlp, "act_fn", nn.GELU()),
        lambda block: setattr(block.mlp, "factors", [1.0, 2.0]),
        lambda block: setattr(block, "forward", lambda hidden, **kwargs: hidden),
        lambda block: setattr(block.mlp, "up_proj", nn.Linear(8, 8)),
        lambda block: block.mlp.register_forward_hook(lambda *args: None),
        lambda block: block.train(),
    ],
)
def test_another_setting_makes_another_kind(change: Any) -> None:
    model = make_model("llama").eval()
    first, second = model.model.layers
    change(second)
    assert module_code(first) != module_code(second)


def test_calls_are_alike_by_what_is_no_tensor() -> None:
    mask, table = torch.ones(1, 4), torch.zeros(2, 4)
    call = Call((), {"attention_mask": mask, "tables": (table, table), "use_cache": False})
    code, tensors = call_code(call)
    assert [tensor is table for tensor in tensors.values()] == [False, True, True]
    same, _ = call_code(Call((), {**call.kwargs, "attention_mask": torch.zeros(1, 4)}))
    assert code == same, "tensors are for whoever compares them"
    for other in ({"use_cache": True}, {"attention_mask": None}, {"more": 1}):
        assert call_code(Call((), {**call.kwargs, **other}))[0] != code
