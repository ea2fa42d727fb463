"""Block-wise reconstruction: a block as tuning sees it, and the numbers that tune it.

The block is a function of its weights; nothing here knows what a module is.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from autoround.core.batches import Samples, Upload
from autoround.core.grids.grid import from_groups
from autoround.core.ops import Ops
from autoround.core.rounding import Rounding
from autoround.core.rtn import Target

#: Runs a block: weights by name (as the block stores them), inputs and which samples they are,
#: to its output.
Forward = Callable[[Mapping[str, Tensor], Tensor, Tensor | None], Tensor]

#: Tensors in, tensors out.
Step = Callable[[Sequence[Tensor]], Sequence[Tensor]]


class Download(Protocol):
    """A tensor on its way to the host."""

    def ready(self) -> bool:
        """Tell whether it is there, without waiting."""

    def result(self) -> Tensor:
        """Return it on the CPU, waiting where it is not there yet."""


class DeviceHooks(NamedTuple):
    """What a device can do for the loop beside the operations.

    upload: bring samples to it while it computes. capture: record a step for tensors like the
    examples it is given, and return one that plays it. download: start to copy a tensor to the
    host behind the work that is queued.
    """

    upload: Upload | None = None
    capture: Callable[[Step, Sequence[Tensor]], Step] | None = None
    download: Callable[[Tensor], Download] | None = None


class BlockKind(NamedTuple):
    """What tells blocks of a kind: they run the same code on tensors of the same names.

    code: equal for blocks whose modules are alike. private: tensors beside the weights that are
    this block's alone, and free to be written to when it is done. shared: those that it has in
    common with others.
    """

    code: Hashable
    private: Mapping[str, Tensor]
    shared: Mapping[str, Tensor]


class Reconstruction(NamedTuple):
    """A block as tuning sees it: a function of weights, what to quantize, what to match.

    capturable: whether the block does the same whatever samples it is given, so that a step of it
    can be recorded as a graph of the device. kind: None where its recording is to serve no other.
    """

    forward: Forward
    targets: Mapping[str, Target]
    samples: Samples
    hooks: DeviceHooks = DeviceHooks()
    capturable: bool = False
    kind: BlockKind | None = None

    @property
    def device(self) -> torch.device:
        """Where the weights live and the block runs."""
        return next(iter(self.targets.values())).groups.device


class Hyperparameters(NamedTuple):
    """Hyperparameters of one block's tuning.

    iters: steps. lr: learning rate of offsets V at step 0, in levels. minmax_lr: that of min_scale
    and max_scale; 0 leaves them at one. batch_size: samples of a batch. grad_accum_steps: batches
    of a step.
    num_validations: how often the validation samples are scored to choose the best iterate.
    validation_samples: how many those are. max_minmax_scale: largest min_scale and max_scale.
    micro_batch: samples that go through the block at a time, 0 for a whole batch; the numbers are
    the same but for the order of sums. best_on_cpu: keep the best iterate in the host's memory.
    """

    iters: int
    lr: float
    minmax_lr: float
    batch_size: int
    grad_accum_steps: int
    num_validations: int
    validation_samples: int
    max_minmax_scale: float
    seed: int
    micro_batch: int = 0
    best_on_cpu: bool = False


def rounded_weights(
    targets: Mapping[str, Target],
    roundings: Mapping[str, Rounding],
    *,
    ops: Ops,
    dtype: torch.dtype,
) -> dict[str, Tensor]:
    """Fake-quantize every tensor and give it its real shape.

    Args:
        targets: what to quantize, by name.
        roundings: how, by the same names.
        ops: of the device.
        dtype: of the results, the one that blocks compute in.

    Returns:
        By name, in the shape of its target, differentiable in the roundings.
    """
    rounded = ops.fake_quantize_all(
        [target.groups for target in targets.values()],
        [roundings[name] for name in targets],
        grids=[target.grid for target in targets.values()],
        dtype=dtype,
    )
    return {
        name: from_groups(groups, target.shape)
        for (name, target), groups in zip(targets.items(), rounded, strict=True)
    }
