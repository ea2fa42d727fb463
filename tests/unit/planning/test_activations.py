"""Activations by shapes: what a step keeps, counted against torch's own hooks on saved tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from autoround.device.registry import open_device
from autoround.model.skeleton import Skeleton, adopt_model
from autoround.planning.activations import block_shape, groups_of
from autoround.planning.device_memory import experts_per_token, shapes_of
from autoround.planning.plan import make_plan
from autoround.types import BlockPlan, LayerPlan, Plan, Scheme

from ...runs import small
from ...tiny import make_model

G32 = Scheme(4, 32, True)


def planned(kind: str) -> tuple[Plan, Skeleton]:
    skeleton = adopt_model(make_model(kind))
    runtime = open_device("cpu")
    return make_plan(small(), skeleton, runtime=runtime, calibration="", model=""), skeleton


def layer(name: str, rows: int, columns: int, *, experts: int = 0) -> LayerPlan:
    return LayerPlan(f"b.{name}", (rows, columns), G32, experts=experts, block="b")


def shape_of(*layers: LayerPlan, hidden: int = 8, top_k: int = 2, **vectors: int) -> Any:
    return block_shape(BlockPlan(0, "b", layers), hidden=hidden, top_k=top_k, vectors=vectors)


def saved_bytes(block: Any, hidden: Tensor, call: dict[str, Any]) -> int:
    """Return the bytes that torch keeps for a backward through a block, weights not counted."""
    weights = {p.untyped_storage()._cdata for p in block.parameters()}
    kept: dict[int, int] = {}
    alive = []

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights and tensor.dim() > 2:
            kept[storage._cdata] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        out = block(hidden, **call)
        out = out[0] if isinstance(out, tuple) else out
        (out.float() - hidden.float()).square().mean()
    return sum(kept.values())


def keeps_scores(item: torch.dtype) -> bool:
    """Tell whether attention keeps its scores where queries share keys, as torch 2.8's does."""
    found: list[torch.Size] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor.shape)
        return tensor

    queries, keys = (torch.zeros(1, n, 64, 16, dtype=item, requires_grad=True) for n in (4, 2))
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        attend = torch.nn.functional.scaled_dot_product_attention
        attend(queries, keys, keys, is_causal=True, enable_gqa=True)
    return any(shape[-2:] == (64, 64) for shape in found)


@pytest.mark.parametrize("item", [torch.bfloat16, torch.float32])
def test_a_step_keeps_what_torch_saves(item: torch.dtype) -> None:
    if keeps_scores(item):
        pytest.skip("attention keeps its scores on this processor, which no device's kernel does")
    plan, skeleton = planned("llama")
    model: Any = make_model("llama").to(item)
    model.config._attn_implementation = "sdpa"
    block = model.model.layers[0]
    tokens = 64
    hidden = torch.randn(1, tokens, model.config.hidden_size, dtype=item)
    where = model.model.rotary_emb(hidden, torch.arange(tokens)[None])
    saved = saved_bytes(block, hidden, {"position_embeddings": where})
    (shape, *_) = shapes_of(plan, skeleton)
    # In float32 nothing is widened, and what norms keep is what the layers read.
    expected = tokens * shape.kept(item.itemsize)
    assert 0.85 < expected / saved < 1.15


def test_layers_of_a_module_share_what_they_read_and_the_last_reads_what_they_made() -> None:
    attention = shape_of(*(layer(f"attn.{n}_proj", 8, 8) for n in "qkvo"))
    (module,) = attention.modules
    assert module.attention
    # The input, queries, keys and values, and what attention makes of them.
    assert module.kept(2) == 2 * (8 + 3 * 8 + 8)
    mlp = shape_of(layer("mlp.gate", 16, 8), layer("mlp.up", 16, 8), layer("mlp.down", 8, 16))
    # The input, gate and up, the activation of gate, and its product with up.
    assert mlp.modules[0].kept(2) == 2 * (8 + 2 * 16 + 16 + 16)


def test_a_token_takes_the_rows_of_its_experts_alone() -> None:
    def mixture(experts: int) -> Any:
        return shape_of(
            layer("mlp.experts.gate_up_proj", experts * 32, 8, experts=experts),
            layer("mlp.experts.down_proj", experts * 8, 16, experts=experts),
        )

    few, many = mixture(4), mixture(64)
    assert many.weights == 16 * few.weights
    assert many.kept(2) == few.kept(2)
    # With as many experts as a token goes to, each expert is a plain layer of all tokens.
    assert few.modules[0].rows == 2
    alone = [layer(f"mlp.experts.{n}.{part}", 8, 8) for n in range(8) for part in ("w1", "w2")]
    assert [module.rows for module in shape_of(*alone).modules] == [2 / 8] * 8


def test_a_step_needs_more_for_more_tokens_and_gradients_of_all_weights_for_none() -> None:
    shape = shape_of(layer("mlp.gate", 16, 8), layer("mlp.up", 16, 8), layer("mlp.down", 8, 16))
    assert shape.step(2, 0) < shape.step(2, 10) < shape.step(2, 1000)
    grown = shape.step(2, 2000) - shape.step(2, 1000)
    assert grown >= 1000 * shape.kept(2)


def test_norms_inside_attention_are_kept_in_float32() -> None:
    layers = [layer(f"attn.{n}_proj", 32, 8) for n in "qkvo"]
    plain = shape_of(*layers)
    normed = shape_of(*layers, **{"b.attn.q_norm.weight": 4, "b.attn.k_norm.weight": 4})
    assert normed.kept(2) - plain.kept(2) == 4 * (32 + 32)


def test_groups_are_counted_as_schemes_cut_them() -> None:
    sizes = {32: 4 * 3, 128: 4, -1: 4, 0: 1}
    for size, groups in sizes.items():
        plan = LayerPlan("x", (4, 96), Scheme(4, size, True))
        assert groups_of(plan) == groups


def test_configs_say_how_many_experts_a_token_goes_to() -> None:
    _, skeleton = planned("llama")
    assert experts_per_token(skeleton) > 1
    skeleton.model.config.num_experts_per_tok = 3  # type: ignore[union-attr, unused-ignore]
    assert experts_per_token(skeleton) == 3
