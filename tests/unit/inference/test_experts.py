"""Experts that hold packed weights run as the model's own module does."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from autoround.core.rounding import dense_weight
from autoround.formats.registry import layout_named
from autoround.inference.experts import QuantExperts
from autoround.inference.linear import QuantLinear
from autoround.model.experts import stacked_in
from autoround.types import Scheme

from ...tiny import HIDDEN
from ...tiny_quantized import nearest
from ...zoo import make_model

PACKING, SCHEME = "auto_round", Scheme(4, 32, False)


def packed(kind: str) -> tuple[nn.Module, QuantExperts, dict[str, Tensor]]:
    """Return a module of experts with dequantized weights, the packed one, and these weights."""
    plain = make_model(kind).model.layers[0].mlp.experts
    inner = make_model(kind).model.layers[0].mlp.experts
    tensors = {x.name: x for x in stacked_in(plain, "", HIDDEN)}
    held = QuantExperts(inner, tensors)
    weights = {}
    for name, tensor in tensors.items():
        stored = plain.get_parameter(name).detach()
        whole = stored.transpose(1, 2) if tensor.transposed else stored
        matrices = {}
        for expert in range(tensor.count):
            for part in range(len(tensor.parts)):
                layer = nearest(whole[expert, tensor.rows(part)], SCHEME)
                matrices[part, expert] = dense_weight(layer)
                own = QuantLinear(
                    (len(layer.codes), layer.codes.shape[1]),
                    SCHEME,
                    packing=PACKING,
                    bias=False,
                )
                for key, value in layout_named(PACKING).to_tensors(layer).items():
                    own._buffers[key] = value
                path = f"{expert}.{tensor.parts[part]}"
                held.put(name, (part, expert), path, own)
                assert held.get_submodule(path) is own
                assert own.of_experts
        weights[name] = tensor.merge(matrices)
        with torch.no_grad():
            plain.get_parameter(name).copy_(weights[name])
    return plain, held, weights


def run(module: nn.Module) -> Tensor:
    torch.manual_seed(1)
    hidden = torch.randn(6, HIDDEN)
    chosen = torch.tensor([[0, 1], [1, 2], [3, 0], [2, 3], [0, 3], [1, 3]])
    with torch.no_grad():
        out: Tensor = module(hidden, chosen, torch.full((6, 2), 0.5))
    return out


@pytest.mark.parametrize("kind", ["mixtral", "qwen3_moe", "gpt_oss"])
def test_they_compute_what_their_unpacked_weights_do(kind: str) -> None:
    plain, held, weights = packed(kind)
    found = held.dense(torch.float32)
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name]) for name in weights)
    torch.testing.assert_close(run(held), run(plain))


def test_unpacked_weights_are_there_for_the_time_of_a_call_alone() -> None:
    _, held, weights = packed("mixtral")
    run(held)
    assert not set(weights) & set(dict(held.inner.named_parameters()))
    steps = {step for name in held.state_dict() for step in name.split(".")}
    assert not steps & {"inner", "packed", "gate_up_proj"}
    assert {t.dtype for t in held.dense(torch.bfloat16).values()} == {torch.bfloat16}


@pytest.mark.parametrize("kind", ["mixtral", "gpt_oss"])
def test_its_state_has_the_names_of_files_and_the_tensors_of_the_plain_module(kind: str) -> None:
    plain, held, weights = packed(kind)
    rest = [name for name, _ in plain.named_parameters() if name not in weights]
    state = dict(held.state_dict())
    assert all(torch.equal(state.pop(n), plain.get_parameter(n)) for n in rest)
    assert {name.split(".")[0] for name in state} == {"0", "1", "2", "3"}
    assert "3.down_proj.qweight" in state
    assert bool(rest) == (kind == "gpt_oss")


def test_a_copy_runs_alone_and_shares_nothing() -> None:
    _, held, _ = packed("gpt_oss")
    expected = run(held)
    other = copy.deepcopy(held)
    other.gate_up_proj_bias.data.add_(1.0)
    assert torch.equal(run(held), expected)
    assert not torch.equal(run(other), expected)
    again = pickle.loads(pickle.dumps(held))
    assert torch.equal(run(again), expected)
    assert again.num_experts == 4


def test_it_gives_the_model_its_own_module_back_unpacked() -> None:
    plain, held, weights = packed("gpt_oss")
    module = held.eval().unpack(torch.float32)
    assert type(module) is type(plain)
    assert not module.training
    assert module.state_dict().keys() == plain.state_dict().keys()
    assert all(torch.equal(module.get_parameter(name), weights[name]) for name in weights)
    assert torch.equal(run(module), run(plain))


def test_it_moves_and_changes_its_mode_with_what_it_holds() -> None:
    _, held, _ = packed("gpt_oss")
    held.eval()
    assert not held.inner.training
    held.to(torch.bfloat16)
    assert held.inner.gate_up_proj_bias.dtype == torch.bfloat16
    layer = held.get_submodule("0.down_proj")
    assert layer.state_dict()["scales"].dtype == torch.float16


def test_what_the_model_asks_of_its_experts_is_answered() -> None:
    _, held, _ = packed("mixtral")
    assert held.num_experts == held.inner.num_experts == 4
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = held.no_such_thing
