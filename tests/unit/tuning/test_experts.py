"""Stacked experts: what each of them is rounded by, and those that few tokens came to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from autoround.core.rounding import Rounding
from autoround.events import ignore
from autoround.formats.written import split, written_layers
from autoround.model.importance import PRIOR_TOKENS, Importance, accumulate_importance
from autoround.model.stacked_experts import as_matrix, from_matrix
from autoround.pipeline import run
from autoround.preparation import Request
from autoround.tuning.experts import reset_undertrained, undertrained_experts
from autoround.types import FEW_TOKENS, BlockPlan, LayerPlan, QuantizedTensor, Scheme

from ...families import text
from ...runs import even_device, open_device, open_model, small, tensors_of
from ...zoo import make_model

__all__ = ["even_device"]
SCHEME = Scheme(4, 32, False)


def layer(*, transposed: bool = False, interleaved: bool = False) -> LayerPlan:
    files = ("m.experts.{}.gate_proj", "m.experts.{}.up_proj")
    return LayerPlan(
        "b.experts.gate_up_proj", (3 * 8, 32), SCHEME, "", transposed,
        experts=3, files=files, interleaved=interleaved,
    )  # fmt: skip


@pytest.mark.parametrize("transposed", [False, True])
def test_a_stacked_weight_becomes_a_matrix_and_back(transposed: bool) -> None:
    own = layer(transposed=transposed)
    weight = torch.randn(3, 32, 8) if transposed else torch.randn(3, 8, 32)
    matrix = as_matrix(own, weight)
    assert matrix.shape == own.shape
    for expert in range(3):
        one = weight[expert].t() if transposed else weight[expert]
        assert torch.equal(matrix[8 * expert : 8 * expert + 8], one)
    assert torch.equal(from_matrix(own, matrix), weight)


@pytest.mark.parametrize("interleaved", [False, True])
def test_experts_are_cut_apart_with_their_scales(interleaved: bool) -> None:
    own = layer(interleaved=interleaved)
    codes = torch.randint(0, 16, (24, 32), dtype=torch.uint8)
    scale, zero = torch.rand(24, 1).half(), torch.randint(0, 16, (24, 1), dtype=torch.uint8)
    found = dict(split(own, QuantizedTensor(codes, scale, zero, SCHEME)))
    assert list(found) == [x.name for x in written_layers([own])]
    up = found["m.experts.2.up_proj"]
    rows = torch.arange(16, 24)[1::2] if interleaved else torch.arange(20, 24)
    assert torch.equal(up.codes, codes[rows])
    assert torch.equal(up.scale, scale[rows])
    assert torch.equal(up.zero, zero[rows])


def test_every_expert_is_weighted_by_its_own_tokens() -> None:
    model = make_model("qwen3_moe")
    block = model.model.layers[0]
    importance = Importance()
    stacked = {"mlp.experts.gate_up_proj": 4, "mlp.experts.down_proj": 4}
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    block.mlp.experts.register_forward_pre_hook(lambda m, args: seen.append((args[0], args[1])))
    ids = text(2, 16)
    mask = torch.ones(2, 16, dtype=torch.bool)
    mask[1, 10:] = False
    importance.mask(mask)
    with accumulate_importance(block, [], into=importance, stacked=stacked), torch.no_grad():
        model(ids, use_cache=False)
    hidden, chosen = seen[0]
    real = mask.reshape(-1)
    tokens = importance.tokens["mlp.experts"]
    assert tokens.sum() == 2 * 26
    sums = torch.stack([hidden[(chosen == e).any(1) & real].square().sum(0) for e in range(4)])
    mean = sums.sum(0) / tokens.sum()
    wanted = (sums + PRIOR_TOKENS * mean) / (tokens[:, None] + PRIOR_TOKENS)
    got = importance.get("mlp.experts.gate_up_proj")
    assert got is not None
    torch.testing.assert_close(got, wanted)
    inner = importance.get("mlp.experts.down_proj")
    assert inner is not None
    experts = block.mlp.experts
    gate, up = (hidden[(chosen == 1).any(1) & real] @ experts.gate_up_proj[1].t()).chunk(2, -1)
    mine = (torch.nn.functional.silu(gate) * up).square().sum(0)
    torch.testing.assert_close(
        inner[1] * (tokens[1] + PRIOR_TOKENS) - mine,
        inner[0] * (tokens[0] + PRIOR_TOKENS)
        - sum_of_inner(experts, hidden[(chosen == 0).any(1) & real], 0),
    )


def sum_of_inner(experts: torch.nn.Module, hidden: torch.Tensor, expert: int) -> torch.Tensor:
    gate, up = (hidden @ experts.gate_up_proj[expert].t()).chunk(2, -1)  # type: ignore[index]
    return (torch.nn.functional.silu(gate) * up).square().sum(0)


def test_experts_that_few_tokens_came_to_stay_where_they_started() -> None:
    own = layer()
    block = BlockPlan(0, "b", (replace(own, block="b"),))
    tokens = torch.tensor([FEW_TOKENS, FEW_TOKENS - 1, 0])
    few = undertrained_experts(block, {"experts": tokens})
    assert few[own.name].tolist() == [False, True, True]
    value, clip = torch.full((24, 1, 32), 0.3), torch.full((24, 1, 1), 0.9)
    found = reset_undertrained({own.name: Rounding(value, clip, clip)}, few)[own.name]
    assert bool((found.offset[:8] == 0.3).all())
    assert not found.offset[8:].any()
    assert bool((found.min_scale[:8] == 0.9).all())
    assert bool((found.max_scale[8:] == 1).all())
    assert undertrained_experts(block, {"experts": tokens.clamp(min=FEW_TOKENS)}) == {}


def test_counts_are_reported_and_names_are_those_of_published_checkpoints(tmp_path: Path) -> None:
    make_model("mixtral").save_pretrained(tmp_path / "source")
    skeleton = open_model(tmp_path / "source")
    request = Request(skeleton, small(), open_device("cpu"), "tiny", None, text(4, 16))
    result = run(request, tmp_path / "out", sink=ignore)
    for block in result.blocks:
        assert sum(block.expert_tokens["mlp.experts"]) == 2 * 4 * 16
    names = set(tensors_of(tmp_path / "out"))
    for part in ("w1", "w2", "w3"):
        assert f"model.layers.1.block_sparse_moe.experts.3.{part}.qweight" in names
    assert "model.layers.0.block_sparse_moe.gate.weight" in names
