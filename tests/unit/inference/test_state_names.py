"""A packed model's state dict has its files' names, and takes them back."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from autoround.inference.load import densify, load, open_empty
from autoround.inference.state_names import StateNames, StateNamesBack, file_names

from ...runs import logits, tensors_of
from ...tiny import token_ids


class Two(nn.Module):
    """Two layers whose files swap their names."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
        names = {"a.weight": "b.weight", "b.weight": "a.weight"}
        self.register_state_dict_post_hook(StateNames(names))
        self.register_load_state_dict_pre_hook(StateNamesBack(names))


def test_names_may_be_those_of_other_tensors() -> None:
    two, other = Two(), Two()
    state = two.state_dict()
    assert list(state) == ["b.weight", "a.weight"]
    assert torch.equal(state["b.weight"], two.a.weight)
    other.load_state_dict(state)
    assert torch.equal(other.a.weight, two.a.weight)
    whole = nn.ModuleDict({"two": two})
    assert list(whole.state_dict()) == ["two.b.weight", "two.a.weight"]
    nn.ModuleDict({"two": other}).load_state_dict(whole.state_dict())
    # Whoever offloads a parameter finds it under its own name.
    assert list(two.to("meta").state_dict()) == ["a.weight", "b.weight"]


@pytest.mark.parametrize("kind", ["mixtral", "llava"])
def test_a_loaded_model_has_the_names_of_its_files(
    kind: str, quantized_family: Callable[[str], Path]
) -> None:
    folder = quantized_family(kind)
    files = tensors_of(folder)
    model = load(folder, device="cpu", dtype=torch.float32, backend="torch")
    assert set(model.state_dict()) == set(files)
    other = copy.deepcopy(model)
    assert set(other.state_dict()) == set(files)
    for name, tensor in other.state_dict().items():
        if tensor.is_floating_point() and not name.endswith("scales"):
            tensor.zero_()
    other.load_state_dict(model.state_dict())
    ids = token_ids(1, 8) % 90 + 4
    assert torch.equal(logits(other, ids), logits(model, ids))
    # Unpacked, it is named and saved as any model of its class.
    densify(other, torch.float32)
    assert not hasattr(other, "_weight_conversions")
    assert set(other.state_dict()) == {
        *dict(other.named_parameters()),
        *dict(other.named_buffers()),
    } - {name for name, _ in other.named_non_persistent_buffers()}


def test_every_tensor_of_the_files_has_a_name(quantized_family: Callable[[str], Path]) -> None:
    folder = quantized_family("mixtral")
    model, opened, packed = open_empty(folder)
    names = file_names(model, opened, packed)
    assert set(names.values()) == set(tensors_of(folder))
    experts = "model.layers.0.mlp.experts.2.w3.qweight"
    assert names[experts] == "model.layers.0.block_sparse_moe.experts.2.w3.qweight"
