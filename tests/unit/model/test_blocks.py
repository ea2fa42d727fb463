from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from autoround.errors import ModelError
from autoround.model.blocks import decoder_blocks, is_matrix, matrices, tied_names
from autoround.model.build import build_empty

from ...tiny import HIDDEN, KINDS, TinyBlock

Checkpoint = Callable[[str], Path]


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_and_matrices_of_every_kind(kind: str, checkpoint: Checkpoint) -> None:
    model, expected = build_empty(checkpoint(kind)), KINDS[kind]
    blocks = decoder_blocks(model)
    assert blocks == [f"{expected.blocks}.{i}" for i in range(expected.count)]
    found = matrices(model, blocks[-1])
    assert [m.name for m in found] == [f"{blocks[-1]}.{name}" for name in expected.matrices]
    kept = [m.name.removeprefix(blocks[-1] + ".") for m in found if m.why_kept]
    assert kept == list(expected.kept)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2", "mixtral"])
def test_a_matrix_says_how_it_is_stored(kind: str, checkpoint: Checkpoint) -> None:
    model = build_empty(checkpoint(kind))
    for matrix in matrices(model, decoder_blocks(model)[0]):
        if matrix.experts or matrix.why_kept:
            continue
        module = model.get_submodule(matrix.name)
        weight = module.weight
        assert isinstance(weight, nn.Parameter)
        rows, columns = weight.shape
        assert matrix.transposed == (kind == "gpt2")
        assert matrix.shape == ((columns, rows) if matrix.transposed else (rows, columns))
        assert matrix.bias == (module.bias is not None)


def test_shapes_are_out_then_in(checkpoint: Checkpoint) -> None:
    for kind, name in (("gpt2", "mlp.c_fc"), ("opt", "fc1"), ("llama", "mlp.up_proj")):
        model = build_empty(checkpoint(kind))
        found = {m.name: m for m in matrices(model, decoder_blocks(model)[0])}
        out = 4 * HIDDEN if kind == "gpt2" else 96
        assert found[f"{KINDS[kind].blocks}.0.{name}"].shape == (out, HIDDEN)


def test_fused_experts_are_one_matrix(checkpoint: Checkpoint) -> None:
    model = build_empty(checkpoint("mixtral"))
    found = {m.name: m for m in matrices(model, "model.layers.0")}
    experts = found["model.layers.0.mlp.experts.gate_up_proj"]
    assert experts.shape == (4 * 2 * 96, HIDDEN)
    assert (experts.experts, experts.why_kept) == (4, "")


class Mixture(nn.Module):
    """A mixture of experts in the old style: a list of experts and a linear router."""

    def __init__(self, experts: int = 4) -> None:
        super().__init__()
        self.gate = nn.Linear(HIDDEN, experts)
        self.experts = nn.ModuleList(TinyBlock() for _ in range(experts))


class Stack(nn.Module):
    def __init__(self, *lists: nn.ModuleList) -> None:
        super().__init__()
        self.head = nn.Linear(HIDDEN, 8)
        for i, entries in enumerate(lists):
            self.add_module(f"list{i}", entries)


def test_routers_are_kept_and_the_experts_beside_them_are_not() -> None:
    model = Stack(nn.ModuleList(Mixture() for _ in range(2)))
    assert decoder_blocks(model) == ["list0.0", "list0.1"]
    found = {m.name: m.why_kept for m in matrices(model, "list0.1")}
    assert "router" in found.pop("list0.1.gate")
    assert found == {f"list0.1.experts.{i}.fc": "" for i in range(4)}


def test_the_list_with_most_weights_holds_the_blocks() -> None:
    small = nn.ModuleList(nn.Linear(8, 8) for _ in range(9))
    large = nn.ModuleList(nn.Linear(64, 64) for _ in range(3))
    assert decoder_blocks(Stack(small, large)) == ["list1.0", "list1.1", "list1.2"]
    assert decoder_blocks(Stack(large, small)) == ["list0.0", "list0.1", "list0.2"]


def test_a_list_of_anything_else_is_no_list_of_blocks() -> None:
    norms = nn.ModuleList(nn.LayerNorm(512) for _ in range(9))
    mixed = nn.ModuleList([nn.Linear(512, 512), nn.LayerNorm(512)])
    assert decoder_blocks(Stack(norms, mixed, nn.ModuleList([nn.Linear(4, 4)]))) == ["list2.0"]
    with pytest.raises(ModelError, match="no decoder blocks found in Stack"):
        decoder_blocks(Stack(norms, nn.ModuleList()))


def test_matrices_of_the_whole_model_have_no_leading_dot() -> None:
    model = Stack(nn.ModuleList([TinyBlock()]))
    assert [m.name for m in matrices(model, "")] == ["head", "list0.0.fc"]


def test_subclasses_of_linear_are_matrices_if_they_compute_the_same() -> None:
    class Same(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(x, self.weight, self.bias)

    class Other(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * 2

    assert is_matrix(nn.Linear(2, 2))
    assert is_matrix(Same(2, 2, bias=False))
    assert not is_matrix(Other(2, 2))
    assert not is_matrix(nn.Embedding(2, 2))


def test_tied_names(checkpoint: Checkpoint) -> None:
    assert tied_names(build_empty(checkpoint("llama"))) == {}
    assert tied_names(build_empty(checkpoint("gemma2"))) == {
        "lm_head.weight": "model.embed_tokens.weight"
    }
