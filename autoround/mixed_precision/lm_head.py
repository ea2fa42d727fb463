"""What the output head costs in each of its options: the divergence itself, nothing estimated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from autoround.core.rtn import round_to_nearest
from autoround.core.tune import rounded_weights
from autoround.mixed_precision.fisher_pass import FisherPass, output_chunks
from autoround.mixed_precision.perturbation import ScoredModule
from autoround.tuning.lm_head import read_matrix
from autoround.tuning.targets import make_target
from autoround.types import Scheme


@torch.no_grad()
def head_losses(course: FisherPass, part: ScoredModule) -> dict[Scheme, float]:
    """Round the head alone to each option; returns the divergence of the answers, by the token."""
    job, layer = course.job, part.layers[0]
    outer = course.runner.outer()
    weight = read_matrix(job, layer)
    driven = torch.zeros(weight.shape[1])
    for own in output_chunks(course):
        inputs = course.runner.head_inputs(outer, own)
        driven += inputs[0].float().square().sum(0).cpu()
    found = {}
    module = job.skeleton.model.get_submodule(layer.name)
    plain = weight.to(job.runtime.device, job.compute)
    for scheme in part.options:
        planned = replace(layer, scheme=scheme)
        tasks = {layer.name: make_target(job, planned, weight, driven / course.real)}
        rounded = rounded_weights(
            tasks, round_to_nearest(tasks), ops=job.runtime.ops, dtype=job.compute
        )
        change = rounded[layer.name] - plain
        total = 0.0
        for own in output_chunks(course):
            wanted = course.runner.head(outer, own)[0]
            with _moved(module, change):
                logits = course.runner.head(outer, own)[0]
            total += job.runtime.ops.divergence(logits, wanted)[0]
        found[scheme] = max(0.0, total / course.real)
    return found


@contextmanager
def _moved(head: nn.Module, change: Tensor) -> Iterator[None]:
    """Let a head put out what it would with another weight; change: [out, in], what differs."""
    handle = head.register_forward_hook(partial(_add, change))
    try:
        yield
    finally:
        handle.remove()


def _add(change: Tensor, module: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
    given: Tensor = args[0]
    return out + given @ change.t()
