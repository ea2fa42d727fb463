"""Predicted losses of layers, against gradients through the whole model."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from autoround.core.rounding import dense_weight
from autoround.core.sensitivity import SPAN, sampled_gradient
from autoround.events import Event, Scored, StageStarted
from autoround.mixed_precision.layer_groups import scored_head, scored_modules
from autoround.mixed_precision.perturbation import ScoredModule
from autoround.mixed_precision.sensitivity import layer_losses
from autoround.session.session import Session
from autoround.types import Scheme

from ...runs import make_session, small
from ...tiny import make_model, token_ids
from ...tiny_quantized import nearest

IDS = token_ids(6, 32)
VALUES: dict[str, object] = {
    "tuning.init_scale": "minmax",
    "tuning.init_rounding": "nearest",
    "tuning.iters": 1,
    "scheme.sym": False,
    "calibration.nsamples": 6,
    "calibration.seqlen": 32,
    "allocate.options": ["W2", "W4"],
}


def opened(
    model: Any, values: dict[str, object] | None = None, *, sink: Any = lambda event: None
) -> tuple[Session, list[list[ScoredModule]]]:
    own = {**VALUES, **(values or {})}
    session = make_session(model, own, data=IDS, sink=sink)
    return session, scored_modules(small(own), session.skeleton, session.plan)


def inputs_and_gradients(model: Any, session: Session, path: str) -> tuple[Tensor, Tensor]:
    """Return a layer's inputs, and the gradients of the sampled labels for its outputs."""
    seen: list[Tensor] = []
    handle = model.get_submodule(path).register_forward_hook(
        lambda module, args, out: seen.extend((args[0], out))
    )
    logits = model(IDS, use_cache=False).logits
    handle.remove()
    generator = torch.Generator().manual_seed(session.tuning.seed)
    of_logits = [sampled_gradient(own, generator=generator) for own in logits.detach()]
    return seen[0].detach(), torch.autograd.grad(logits, seen[1], torch.stack(of_logits))[0]


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_loss_is_half_the_mean_squared_effect_on_the_sampled_labels(kind: str) -> None:
    model = make_model(kind)
    session, modules = opened(model)
    found = layer_losses(session, modules)
    for module in (modules[0][0], modules[1][-1]):
        (layer,) = module.layers
        inputs, grads = inputs_and_gradients(model, session, module.name)
        weight = model.get_parameter(layer.tensor).detach()
        weight = weight.t() if layer.transposed else weight
        for scheme in module.options:
            change = (dense_weight(nearest(weight, scheme)) - weight).double()
            products = ((inputs.double() @ change.t()) * grads.double()).sum(-1).numpy()
            spans = products.reshape(len(IDS), -1, SPAN).sum(-1)
            wanted = float((np.square(spans)).sum()) / (2 * IDS.numel())
            assert found[module.name][scheme] == pytest.approx(wanted, rel=2e-3)


def test_every_part_is_scored_in_the_order_of_the_model_and_the_head_last() -> None:
    events: list[Event] = []
    model = make_model("llama")
    session, modules = opened(model, {"allocate.lm_head": 2}, sink=events.append)
    events.clear()
    head = scored_head(small({**VALUES, "allocate.lm_head": 2}), session.skeleton, session.plan)
    found = layer_losses(session, modules, head=head)
    names = [module.name for own in modules for module in own]
    assert list(found) == [*names, "lm_head"]
    for own in found.values():
        assert [scheme.bits for scheme in own] == [2, 4]
        low, high = own.values()
        assert low > high > 0
    started, *scored = events
    assert started == StageStarted("score", "2 blocks, 192 tokens")
    assert scored == [Scored(1, 2), Scored(0, 2)]
    plain = layer_losses(session, modules)
    assert plain == {name: found[name] for name in names}


def test_only_options_that_a_part_can_have_are_scored() -> None:
    session, modules = opened(make_model("llama"))
    fewer = [
        [replace(m, options=m.options[:1] if m.path == "mlp.up_proj" else m.options) for m in own]
        for own in modules
    ]
    found, whole = layer_losses(session, fewer), layer_losses(session, modules)
    for name, own in found.items():
        bits = [2] if name.endswith("up_proj") else [2, 4]
        assert [scheme.bits for scheme in own] == bits
        assert all(own[scheme] == whole[name][scheme] for scheme in own)


def test_a_short_tuning_takes_its_share_of_all_parts_of_a_block() -> None:
    session, modules = opened(make_model("llama"), {"tuning.batch_size": 3})
    plain = layer_losses(session, modules)
    tuned = layer_losses(session, modules, tuned_steps=10)
    for block in modules:
        for scheme in block[0].options:
            shares = [tuned[m.name][scheme] / plain[m.name][scheme] for m in block]
            assert max(shares) - min(shares) < 1e-6
            assert 0 < shares[0] <= 1
    two = Scheme(2, 32, False)
    assert any(tuned[own[0].name][two] < 0.9 * plain[own[0].name][two] for own in modules)


def test_experts_are_scored_and_cost_more_in_fewer_bits() -> None:
    session, modules = opened(make_model("mixtral"))
    found = layer_losses(session, modules)
    for block in (0, 1):
        own = list(found[f"model.layers.{block}.mlp.experts"].values())
        assert own == sorted(own, reverse=True)
        assert all(math.isfinite(loss) and loss > 0 for loss in own)
