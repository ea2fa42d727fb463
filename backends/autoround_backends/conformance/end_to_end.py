"""End-to-end tuning: dequantizing, its gradient, votes for codes, and the divergence."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor

from autoround.core.end_to_end import VOTES_PER_HALF_LEVEL, SignVotes
from autoround.core.grids.schemes import scheme_levels
from autoround.types import PER_CHANNEL, QuantizedTensor, Scheme
from autoround_backends.conformance.subject import Case, Subject, require

#: (shape, scheme): groups that divide the width, that do not, and one a row.
LAYERS = (
    ((6, 64), Scheme(4, 32, True)),
    ((5, 50), Scheme(2, 16, False)),
    ((7, 24), Scheme(8, PER_CHANNEL, False)),
)


def end_to_end_cases() -> Iterator[Case]:
    """Yield the cases of this file."""
    for shape, scheme in LAYERS:
        about = f"[{shape[0]}x{shape[1]}, {scheme}]"
        yield Case(f"scaled weights are exact {about}", partial(_scaled, shape, scheme))
        yield Case(f"gradients of scales are exact {about}", partial(_gradient, shape, scheme))
        yield Case(f"codes vote and move {about}", partial(_votes, shape, scheme))
    yield Case("divergence of logits", _divergence)


def _layer(shape: tuple[int, int], scheme: Scheme, device: torch.device) -> QuantizedTensor:
    rng, levels = torch.Generator().manual_seed(scheme.bits), scheme_levels(scheme)
    width = scheme.group_size if scheme.group_size > 0 else shape[1]
    groups = (shape[0], -(-shape[1] // width))
    zero = torch.full(groups, levels.middle)
    if not scheme.sym:
        zero = torch.randint(0, levels.count, groups, generator=rng)
    return QuantizedTensor(
        torch.randint(0, levels.count, shape, generator=rng).to(torch.uint8).to(device),
        (torch.randn(groups, generator=rng) * 0.1).half().to(device),
        zero.to(torch.uint8).to(device),
        scheme,
    )


def _by_input(part: Tensor, layer: QuantizedTensor) -> np.ndarray:
    """Repeat what every group has for each of its inputs."""
    columns = layer.codes.shape[1]
    width = layer.scheme.group_size if layer.scheme.group_size > 0 else columns
    return np.asarray(part.cpu().double().numpy()[:, np.arange(columns) // width])


def _levels(layer: QuantizedTensor) -> np.ndarray:
    return np.asarray(layer.codes.cpu().double().numpy() - _by_input(layer.zero, layer))


def _scaled(shape: tuple[int, int], scheme: Scheme, subject: Subject) -> None:
    layer = _layer(shape, scheme, subject.runtime.device)
    rng = torch.Generator().manual_seed(1)
    factor = 0.7 + 0.6 * torch.rand((*layer.scale.shape, 1), generator=rng)
    weight = subject.runtime.ops.scaled_weight(
        layer, factor.to(subject.runtime.device), dtype=torch.float32
    )
    scale = layer.scale.cpu().float().numpy() * factor[..., 0].numpy()
    size = np.maximum(np.abs(scale), 1e-5).astype(np.float16).astype(np.float64)
    stored = torch.from_numpy(np.where(scale < 0, -size, size))
    wanted = _levels(layer) * _by_input(stored, layer)
    # A product next to a tie may be rounded to either neighbour.
    apart = np.abs(weight.cpu().double().numpy() - wanted) > 1e-6 * np.abs(wanted)
    require(bool(apart.mean() < 0.02), f"{int(apart.sum())} of {apart.size} weights differ")


def _gradient(shape: tuple[int, int], scheme: Scheme, subject: Subject) -> None:
    layer = _layer(shape, scheme, subject.runtime.device)
    grad = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    sums = subject.runtime.ops.scale_gradient(layer, grad.to(subject.runtime.device))
    product = _levels(layer) * grad.double().numpy()
    width = scheme.group_size if scheme.group_size > 0 else shape[1]
    cuts = np.arange(0, shape[1], width)
    wanted = np.add.reduceat(product, cuts, axis=1) * layer.scale.cpu().double().numpy()
    size = np.add.reduceat(np.abs(product), cuts, axis=1) * np.abs(layer.scale.cpu().numpy())
    apart = np.abs(sums[..., 0].cpu().double().numpy() - wanted) > 1e-5 * size + 1e-12
    require(not apart.any(), f"{int(apart.sum())} of {apart.size} gradients differ")


def _votes(shape: tuple[int, int], scheme: Scheme, subject: Subject) -> None:
    device = subject.runtime.device
    layer = _layer(shape, scheme, device)
    before = layer.codes.cpu().to(torch.int16)
    votes = torch.zeros(shape, dtype=torch.int8, device=device)
    ones = torch.ones(shape, device=device)
    scale = torch.from_numpy(_by_input(layer.scale, layer))
    down = scale > 0  # a falling weight needs a falling code where its scale is above zero
    for _ in range(2):
        subject.runtime.ops.scale_gradient(layer, ones, SignVotes(votes, 100))
    wanted = (before + torch.where(down, -1, 1)).clamp(0, scheme_levels(scheme).count - 1)
    moved = layer.codes.cpu().to(torch.int16)
    require(bool((moved == wanted).all()), "codes did not move by one level, or beyond the grid")
    require(
        bool((votes.cpu().abs() <= VOTES_PER_HALF_LEVEL).all()),
        "votes beyond half a level",
    )


def _divergence(subject: Subject) -> None:
    rng = torch.Generator().manual_seed(3)
    student, teacher = (3.0 * torch.randn((9, 37), generator=rng) for _ in range(2))
    device = subject.runtime.device
    loss, grad = subject.runtime.ops.divergence(student.to(device), teacher.to(device))
    logs = [t.double() - t.double().logsumexp(-1, keepdim=True) for t in (student, teacher)]
    exact = float((logs[1].exp() * (logs[1] - logs[0])).sum())
    require(abs(loss - exact) <= 1e-4 * exact, f"{loss} in place of {exact}")
    wanted = logs[0].exp() - logs[1].exp()
    require(torch.allclose(grad.cpu().double(), wanted, atol=1e-5), "its gradient differs")
    require(grad.dtype == student.dtype, f"a gradient in {grad.dtype}")
