"""The loss of the lm-head in each of its options: the KL divergence itself, nothing estimated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from autoround.core.reconstruction import rounded_weights
from autoround.core.rtn import round_to_nearest
from autoround.mixed_precision.fisher_pass import FisherPass, output_chunks
from autoround.mixed_precision.perturbation import ScoredModule
from autoround.tuning.lm_head import read_matrix
from autoround.tuning.targets import make_target
from autoround.types import Scheme


@torch.no_grad()
def head_losses(fisher: FisherPass, head: ScoredModule) -> dict[Scheme, float]:
    """Round the head alone to each option; returns the divergence of its logits a token.

    Args:
        fisher: outputs of the last block.
        head: the lm-head and its options.
    """
    session, layer = fisher.session, head.layers[0]
    ops, dtype = session.runtime.ops, session.compute_dtype
    outer = fisher.runner.outer()
    weight = read_matrix(session, layer)
    squares = torch.zeros(weight.shape[1])
    for hidden in output_chunks(fisher):
        inputs = fisher.runner.head_inputs(outer, hidden)
        squares += inputs[0].float().square().sum(0).cpu()
    losses = {}
    module = session.skeleton.model.get_submodule(layer.name)
    plain = weight.to(session.runtime.device, dtype)
    for scheme in head.options:
        planned = replace(layer, scheme=scheme)
        importance = squares / fisher.num_tokens
        targets = {layer.name: make_target(session, planned, weight, importance)}
        rounded = rounded_weights(targets, round_to_nearest(targets), ops=ops, dtype=dtype)
        change = rounded[layer.name] - plain
        total = 0.0
        for hidden in output_chunks(fisher):
            teacher = fisher.runner.head(outer, hidden)[0]
            with _with_changed_weight(module, change):
                logits = fisher.runner.head(outer, hidden)[0]
            total += ops.divergence(logits, teacher)[0]
        # Rounding of sums may leave a divergence just below zero.
        losses[scheme] = max(0.0, total / fisher.num_tokens)
    return losses


@contextmanager
def _with_changed_weight(head: nn.Module, change: Tensor) -> Iterator[None]:
    """Let a head put out what it would with another weight.

    Args:
        head: the module.
        change: [out, in], the difference of the weights.
    """
    handle = head.register_forward_hook(partial(_add, change))
    try:
        yield
    finally:
        handle.remove()


def _add(change: Tensor, module: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
    inputs: Tensor = args[0]
    return out + inputs @ change.t()
