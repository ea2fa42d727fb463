"""A run whose weights come from the hub one file after another: what it refuses, and its disk."""

from __future__ import annotations

import dataclasses
import math

from autoround.core.dtypes import DTYPES
from autoround.device.protocol import Runtime
from autoround.errors import UsageError
from autoround.model.skeleton import Skeleton
from autoround.types import Estimate, Plan


def refuse_scoring(skeleton: Skeleton) -> None:
    """Refuse to score the layers of a model that is streamed.

    Raises:
        UsageError: it is.
    """
    if skeleton.stream is not None:
        raise UsageError(
            "--stream-hub reads every block once, and a bit budget scores all of them first: set "
            "bits or rules for layers in its place, or leave --stream-hub out"
        )


def refuse_second_reading(plan: Plan, skeleton: Skeleton) -> None:
    """Refuse plans that read the blocks of a streamed model again after the last one.

    Raises:
        UsageError: there are several passes over the blocks, or there is end-to-end tuning.
    """
    if skeleton.stream is None:
        return
    if plan.further:
        names = ", ".join(output.format for output in plan.all_outputs)
        raise UsageError(
            f"--stream-hub reads every block once, and {names} take {len(plan.passes)} passes: "
            "write one of them a run, or leave --stream-hub out"
        )
    if plan.tuning.end_to_end.steps:
        raise UsageError(
            "--stream-hub reads every block once, and end-to-end tuning reads them again: add "
            "--set end_to_end.steps=0, or leave --stream-hub out"
        )


def add_streaming(
    estimate: Estimate, plan: Plan, skeleton: Skeleton, *, runtime: Runtime, max_shard_bytes: int
) -> Estimate:
    """Add the disk that a streamed run takes to an estimate.

    Args:
        estimate: of the plan.
        plan: of one pass over the blocks.
        skeleton: the model, which is streamed.
        runtime: the device; some read a block ahead.
        max_shard_bytes: a shard of the output that is not what was expected is written twice
            before its first copy is deleted.
    """
    assert skeleton.stream is not None
    ahead = runtime.own_memory and not plan.tuning.low_memory
    fetched = skeleton.stream.peak_bytes(ahead=ahead)
    journal, output = estimate.journal_bytes, estimate.disk_bytes
    if journal:
        journal += _unquantized_bytes(plan, skeleton)
    return dataclasses.replace(
        estimate,
        journal_bytes=journal,
        fetched_bytes=fetched,
        peak_bytes_on_disk=fetched + journal + output + min(max_shard_bytes, output),
    )


def _unquantized_bytes(plan: Plan, skeleton: Skeleton) -> int:
    """Return the bytes of the blocks' unquantized tensors, which records then hold, too."""
    total = 0
    for block in plan.blocks:
        for name in skeleton.names_under(block.name):
            if name in block.quantized_tensors:
                continue
            shape, dtype = skeleton.header(skeleton.tied.get(name, name))
            converted = dtype.is_floating_point and name not in plan.float32
            total += math.prod(shape) * (DTYPES[plan.dtype] if converted else dtype).itemsize
    return total
