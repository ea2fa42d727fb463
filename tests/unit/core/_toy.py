"""A block small enough to tune in a test: two linear maps with a nonlinearity between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from autoround.core.batches import Samples
from autoround.core.grids.grid import min_max_grid, to_groups
from autoround.core.grids.levels import integer_levels
from autoround.core.ops import TorchOps
from autoround.core.reconstruction import Hyperparameters, Reconstruction
from autoround.core.rounding import quantize
from autoround.core.rtn import Target
from autoround.core.signsgd import SignState
from autoround.core.validation import Tuned

HIDDEN, INNER, SEQ, COUNT = 32, 24, 4, 16


def hyperparameters(
    iters: int = 30,
    *,
    batch_size: int = 4,
    grad_accum_steps: int = 1,
    minmax_lr: float | None = None,
    max_minmax_scale: float = 1.0,
    seed: int = 0,
    micro_batch: int = 0,
    best_on_cpu: bool = False,
) -> Hyperparameters:
    lr = 1.0 / max(1, iters)
    return Hyperparameters(
        iters=iters,
        lr=lr,
        minmax_lr=lr if minmax_lr is None else minmax_lr,
        batch_size=batch_size,
        grad_accum_steps=grad_accum_steps,
        num_validations=4,
        validation_samples=8,
        max_minmax_scale=max_minmax_scale,
        seed=seed,
        micro_batch=micro_batch,
        best_on_cpu=best_on_cpu,
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
    targets = {}
    for name, weight in weights.items():
        groups = to_groups(weight, 16)
        grid = min_max_grid(groups, integer_levels(bits, sym=sym))
        targets[name] = Target(groups, grid, tuple(weight.shape))
    return Reconstruction(forward, targets, Samples(inputs, forward(weights, inputs), mask))


def codes(given: Reconstruction, tuned: Tuned) -> dict[str, Tensor]:
    """The integers that a tuned rounding stands for."""
    return {
        name: quantize(target.groups, tuned.roundings[name], grid=target.grid)[0]
        for name, target in given.targets.items()
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
