"""A block in memory runs with its own weights, or with others in their place."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from autoround.model.importance import Importance
from autoround.model.runner import BlockRunner
from autoround.model.stacked_experts import as_matrix
from autoround.session.loaded_block import (
    LoadedBlock,
    in_kept_dtype,
    load_block,
    observe_inputs,
    read_block,
)
from autoround.session.session import Session, make_runner

from ...runs import make_session
from ...tiny import KINDS, make_model, token_ids
from ...zoo import make_model as make_family

IDS = token_ids(3, 12)


def opened(
    kind: str, values: dict[str, object] | None = None
) -> tuple[Session, BlockRunner, LoadedBlock, Tensor]:
    model = make_model(kind) if kind in KINDS else make_family(kind)
    session = make_session(model, values, data=IDS)
    runner = make_runner(session)
    runner.prepare(IDS)
    plan = session.plan.blocks[0]
    block = load_block(session, runner, plan, plan.by_param(read_block(session, plan)))
    return session, runner, block, runner.embed(IDS)


def matrices(session: Session, block: LoadedBlock) -> dict[str, Tensor]:
    """Return the weights of a block as [out, in]."""
    stored = read_block(session, block.plan)
    return {x.name: as_matrix(x, stored[x.tensor]).contiguous() for x in block.plan.layers}


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mixtral", "gpt_oss"])
def test_its_own_weights_as_matrices_change_nothing(kind: str) -> None:
    session, _, block, hidden = opened(kind)
    own = matrices(session, block)
    with torch.no_grad():
        plain = block.forward(hidden, None)
        assert torch.equal(block.forward(hidden, None, weights=own), plain)
        assert torch.equal(block.with_weights(own).forward(hidden, None), plain)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "mixtral"])
def test_other_weights_are_for_one_call_or_for_good(kind: str) -> None:
    session, _, block, hidden = opened(kind)
    layer = block.plan.quantized[-1]
    other = {layer.name: matrices(session, block)[layer.name] * 2}
    with torch.no_grad():
        plain = block.forward(hidden, None)
        doubled = block.forward(hidden, None, weights=other)
        assert not torch.equal(doubled, plain)
        assert torch.equal(block.with_weights(other).forward(hidden, None), doubled)
        assert torch.equal(block.forward(hidden, None), plain)


def test_weights_that_are_always_replaced_need_not_be_there() -> None:
    session, _, block, hidden = opened("qwen2", {"ignore": ["q_proj"]})
    bare = block.without_quantized()
    gone = set(block.tensors) - set(bare.tensors)
    assert gone == {layer.param for layer in block.plan.quantized}
    assert {"self_attn.q_proj.weight", "self_attn.k_proj.bias"} <= set(bare.tensors)
    own = {x.name: matrices(session, block)[x.name] for x in block.plan.quantized}
    with torch.no_grad():
        assert torch.equal(bare.forward(hidden, None, weights=own), block.forward(hidden, None))


def test_gradients_reach_weights_that_are_given() -> None:
    session, _, block, hidden = opened("gpt2")
    layer = block.plan.quantized[0]
    weight = matrices(session, block)[layer.name].requires_grad_()
    block.forward(hidden, None, weights={layer.name: weight}).square().sum().backward()
    assert weight.grad is not None
    assert weight.grad.abs().sum() > 0


def test_tensors_are_read_by_the_names_of_the_model_as_they_are_stored() -> None:
    model = make_model("llama").bfloat16()
    session = make_session(model, data=IDS)
    plan = session.plan.blocks[1]
    stored = read_block(session, plan)
    wanted = {n: t for n, t in model.state_dict().items() if n.startswith(f"{plan.name}.")}
    assert set(stored) == set(wanted)
    assert all(torch.equal(stored[n], t) and stored[n].dtype == t.dtype for n, t in wanted.items())
    placed = load_block(session, make_runner(session), plan, plan.by_param(stored)).tensors
    assert {t.dtype for t in placed.values()} == {session.compute_dtype}


def test_unquantized_tensors_get_the_dtype_that_is_written() -> None:
    session, _, block, _ = opened("llama", {"output.dtype": "bfloat16", "ignore": ["o_proj"]})
    stored = {**read_block(session, block.plan), "model.layers.0.count": torch.tensor([3])}
    found = in_kept_dtype(session.plan, block.plan, stored)
    dtypes = {name.removeprefix("model.layers.0."): t.dtype for name, t in found.items()}
    assert dtypes["self_attn.o_proj.weight"] == dtypes["input_layernorm.weight"] == torch.bfloat16
    assert dtypes["self_attn.q_proj.weight"] == torch.float32
    assert dtypes["count"] == torch.int64
    name = "model.layers.0.self_attn.o_proj.weight"
    assert torch.equal(found[name], stored[name].bfloat16())


def test_inputs_of_quantized_layers_are_observed_while_the_context_lasts() -> None:
    session, _, block, hidden = opened("llama", {"ignore": ["o_proj"]})
    seen = Importance()
    with torch.no_grad():
        block.forward(hidden, None)
        with observe_inputs(session, block.plan, into=seen):
            block.forward(hidden, None)
        once = seen.get("self_attn.q_proj")
        block.forward(hidden, None)
    assert seen.get("self_attn.o_proj") is None
    own = session.skeleton.model.get_submodule("model.layers.0.input_layernorm")
    weight = block.tensors["input_layernorm.weight"]
    normed = torch.func.functional_call(own, {"weight": weight}, (hidden,))
    assert once is not None
    torch.testing.assert_close(once, normed.double().square().sum((0, 1)).float())
    again = seen.get("self_attn.q_proj")
    assert again is not None
    assert torch.equal(again, once)
    for path in ("self_attn.k_proj", "mlp.up_proj", "mlp.down_proj"):
        assert seen.get(path) is not None


def test_tokens_of_experts_are_counted_even_where_linear_layers_are_not_wanted() -> None:
    session, _, block, hidden = opened("mixtral")
    seen = Importance()
    with torch.no_grad(), observe_inputs(session, block.plan, into=seen, linear=False):
        block.forward(hidden, None)
    assert seen.get("self_attn.q_proj") is None
    assert int(seen.tokens["mlp.experts"].sum()) == 2 * IDS.numel()
