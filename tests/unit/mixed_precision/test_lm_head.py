"""The loss of the head in each option is the divergence itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from autoround.core.rounding import dense_weight
from autoround.data.tokens import Tokens
from autoround.mixed_precision.fisher_pass import forward_original, open_fisher_pass
from autoround.mixed_precision.layer_groups import scored_head
from autoround.mixed_precision.lm_head import head_losses
from autoround.types import Scheme

from ...runs import make_session, small
from ...tiny import make_model, token_ids
from ...tiny_quantized import nearest

IDS = token_ids(4, 16)
VALUES: dict[str, object] = {
    "tuning.init_scale": "minmax",
    "scheme.sym": False,
    "allocate.options": ["W2", "W3", "W8"],
    "allocate.lm_head": 2,
}


def losses(
    model: Any, *, lengths: torch.Tensor | None = None, values: dict[str, object] | None = None
) -> dict[Scheme, float]:
    own = {**VALUES, **(values or {})}
    session = make_session(model, own, data=IDS)
    if lengths is not None:
        session = replace(session, tokens=Tokens(IDS, lengths, "some"))
    head = scored_head(small(own), session.skeleton, session.plan)
    assert head is not None
    with open_fisher_pass(session, None) as fisher:
        forward_original(fisher)
        found = head_losses(fisher, head)
    assert not session.skeleton.model.get_submodule("lm_head")._forward_hooks
    return found


@torch.no_grad()
def divergence(model: Any, scheme: Scheme, real: torch.Tensor) -> float:
    """Return the mean KL of the model with a rounded head, in float64."""
    caught: list[torch.Tensor] = []
    handle = model.lm_head.register_forward_pre_hook(lambda m, args: caught.append(args[0]))
    model(IDS, use_cache=False)
    handle.remove()
    hidden = caught[0][real].double().numpy()
    weight = model.lm_head.weight
    rounded = dense_weight(nearest(weight, scheme))
    logits = [hidden @ w.double().numpy().T for w in (weight, rounded)]
    cap = getattr(model.config, "final_logit_softcapping", None)
    if cap:
        logits = [cap * np.tanh(each / cap) for each in logits]
    p, q = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in logits)
    return float((np.exp(p) * (p - q)).sum(-1).mean())


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_it_is_the_divergence_of_the_logits_a_token(kind: str) -> None:
    model = make_model(kind)
    found = losses(model)
    assert [scheme.bits for scheme in found] == [2, 3, 8]
    assert list(found.values()) == sorted(found.values(), reverse=True)
    whole = torch.ones(IDS.shape, dtype=torch.bool)
    for scheme, loss in found.items():
        assert loss == pytest.approx(divergence(model, scheme, whole), rel=1e-2, abs=1e-6)


def test_padding_is_left_out() -> None:
    model = make_model("llama")
    lengths = torch.tensor([16, 5, 1, 9])
    real = torch.arange(16) < lengths[:, None]
    found = losses(model, lengths=lengths)
    two = Scheme(2, 32, False)
    assert found[two] == pytest.approx(divergence(model, two, real), rel=1e-2)
    assert found[two] != pytest.approx(losses(model)[two], rel=1e-3)


def test_searched_scales_lose_less() -> None:
    model = make_model("llama")
    two = Scheme(2, 32, False)
    searched = losses(model, values={"tuning.init_scale": "search"})
    assert searched[two] < losses(model)[two]


def test_the_model_is_as_it_was() -> None:
    model = make_model("gemma2")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    losses(model)
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
