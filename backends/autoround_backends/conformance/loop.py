"""Twenty steps of the tuning loop: they end where plain torch on a CPU ends."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from autoround.core.batches import Samples
from autoround.core.grids.grid import Grid, min_max_grid, to_groups
from autoround.core.grids.levels import integer_levels
from autoround.core.ops import Ops, TorchOps
from autoround.core.reconstruction import Hyperparameters, Reconstruction
from autoround.core.rounding import Rounding
from autoround.core.rtn import Target, round_to_nearest
from autoround.core.tune import tune
from autoround.core.validation import Tuned
from autoround_backends.conformance.subject import Case, Subject, require

#: Share of the codes that must be the same after twenty steps: gradients near zero have either
#: sign, as sums of float32 are done in another order.
SAME_CODES = 0.99
HYPERPARAMETERS = Hyperparameters(
    iters=20,
    lr=0.05,
    minmax_lr=0.05,
    batch_size=4,
    grad_accum_steps=1,
    num_validations=1,
    validation_samples=8,
    max_minmax_scale=1.0,
    seed=0,
)


def loop_cases() -> Iterator[Case]:
    """Yield the cases of this file."""
    for bits in (2, 4):
        for sym in (True, False):
            about = f"[{bits} bits, {'sym' if sym else 'asym'}]"
            run = partial(_twenty_steps, bits, sym)
            yield Case(f"twenty steps end where plain torch ends {about}", run)


def _twenty_steps(bits: int, sym: bool, subject: Subject) -> None:
    rng = torch.Generator().manual_seed(0)
    weights = [torch.randn(shape, generator=rng) / 8 for shape in ((48, 64), (32, 48))]
    # Correlated inputs, as activations are: otherwise nothing is to be gained by rounding.
    mix = torch.randn((12, 64), generator=rng)
    inputs = torch.randn((16, 8, 12), generator=rng) @ mix
    grids = [min_max_grid(to_groups(w, 32), integer_levels(bits, sym=sym)) for w in weights]
    plain = _tuned(weights, grids, inputs, TorchOps(), torch.device("cpu"))
    ours = _tuned(weights, grids, inputs, subject.runtime.ops, subject.runtime.device)
    start = round_to_nearest(
        {
            str(n): Target(to_groups(w, 32), g, tuple(w.shape))
            for n, (w, g) in enumerate(zip(weights, grids, strict=True))
        }
    )
    moved = same = total = 0
    for number, (weight, grid) in enumerate(zip(weights, grids, strict=True)):
        groups, name = to_groups(weight, 32), str(number)
        before = TorchOps().quantize(groups, start[name], grid=grid)[0]
        wanted = TorchOps().quantize(groups, plain.roundings[name], grid=grid)[0]
        on_host = Rounding(*(part.cpu() for part in ours.roundings[name]))
        codes = TorchOps().quantize(groups, on_host, grid=grid)[0]
        moved += int((wanted != before).sum())
        same += int((codes == wanted).sum())
        total += codes.numel()
    require(moved > 0, "tuning moved nothing, so nothing was compared")
    require(same >= SAME_CODES * total, f"{total - same} of {total} codes differ")
    # A few codes differ by the order of sums; what they add up to must not.
    apart = abs(ours.loss_after - plain.loss_after)
    require(apart <= 0.02 * plain.loss_after, f"{ours.loss_after} and not {plain.loss_after}")
    require(ours.loss_after < ours.loss_before, "the loss did not fall")


def _tuned(
    weights: list[torch.Tensor],
    grids: list[Grid],
    inputs: torch.Tensor,
    ops: Ops,
    device: torch.device,
) -> Tuned:
    """Tune a block of two layers, one after the other."""
    quantized = {}
    for number, (weight, grid) in enumerate(zip(weights, grids, strict=True)):
        groups = to_groups(weight, 32).to(device)
        quantized[str(number)] = Target(groups, grid.to(device), tuple(weight.shape))
    first, second = weights
    targets = (inputs @ first.T).tanh() @ second.T
    block = Reconstruction(
        lambda weights, x, rows: (x @ weights["0"].T).tanh() @ weights["1"].T,
        quantized,
        Samples(inputs, targets, None),
    )
    return tune(block, HYPERPARAMETERS, ops=ops, dtype=torch.float32)
