"""A block small enough to tune in a test: two linear maps with a nonlinearity between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from autoround.core.batches import Samples
from autoround.core.grid import min_max_grid, to_groups
from autoround.core.ops import TorchOps
from autoround.core.rounding import quantize
from autoround.core.rtn import Target
from autoround.core.signsgd import SignState
from autoround.core.tune import Hyperparameters, Reconstruction, Tuned

HIDDEN, INNER, SEQ, COUNT = 32, 24, 4, 16


def schedule(
    iters: int = 30,
    *,
    batch_size: int = 4,
    accumulate: int = 1,
    clip_rate: float | None = None,
    clip_ceiling: float = 1.0,
    seed: int = 0,
    part: int = 0,
    sparing: bool = False,
) -> Hyperparameters:
    rate = 1.0 / max(1, iters)
    return Hyperparameters(
        iters=iters,
        rate=rate,
        clip_rate=rate if clip_rate is None else clip_rate,
        batch_size=batch_size,
        accumulate=accumulate,
        checks=4,
        check_samples=8,
        clip_ceiling=clip_ceiling,
        seed=seed,
        part=part,
        sparing=sparing,
    )


def forward(weights: Mapping[str, Tensor], inputs: Tensor, rows: Tensor | None = None) -> Tensor:
    """Every position by itself, so what is padding cannot leak into what is not."""
    inner = torch.nn.functional.silu(inputs @ weights["up"].T)
    return inner @ weights["down"].T


def problem(
    bits: int = 2, *, sym: bool = False, masked: bool = False, seed: int = 0
) -> Reconstruction:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    weights = {"up": normal(INNER, HIDDEN) / 6, "down": normal(HIDDEN, INNER) / 5}
    # Correlated channels, like activations: that is what gives tuning something to gain.
    inputs = normal(COUNT, SEQ, 6) @ normal(6, HIDDEN) + 0.2 * normal(COUNT, SEQ, HIDDEN)
    mask = None
    if masked:
        lengths = torch.randint(1, SEQ + 1, (COUNT, 1), generator=generator)
        mask = torch.arange(SEQ) < lengths
    tasks = {}
    for name, weight in weights.items():
        groups = to_groups(weight, 16)
        tasks[name] = Target(groups, min_max_grid(groups, bits=bits, sym=sym), tuple(weight.shape))
    return Reconstruction(forward, tasks, Samples(inputs, forward(weights, inputs), mask))


def codes(given: Reconstruction, tuned: Tuned) -> dict[str, Tensor]:
    """The integers that a tuned rounding stands for."""
    return {
        name: quantize(task.groups, tuned.roundings[name], grid=task.grid)[0]
        for name, task in given.tasks.items()
    }


class Recording(TorchOps):
    """The plain ops, keeping a copy of all gradients they were given."""

    def __init__(self) -> None:
        self.grads: list[list[Tensor]] = []

    def sign_step(
        self, params: Sequence[Tensor], grads: Sequence[Tensor], *, state: SignState
    ) -> SignState:
        self.grads.append([grad.clone() for grad in grads])
        return super().sign_step(params, grads, state=state)
