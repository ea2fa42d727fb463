"""Blocks of a small copy, run one by one as tuning runs them, against the class's own forward.

Two different batches take turns at every block. State that one block leaves for another, an
argument that depends on the batch, an axis that is not the batch: each shows as a difference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from autoround.core.loss import relative_square_error
from autoround.errors import ModelError, one_line
from autoround.model.block_outputs import watch_outputs
from autoround.model.probe.observe import Observed
from autoround.model.probe.small_copy import SmallCopy
from autoround.model.runner import BlockRunner
from autoround.model.skeleton import adopt_model

#: Samples of the calibration set of a check, tokens of each, and samples of a batch.
SAMPLES, LENGTH, BATCH = 6, 12, 2
#: Largest squared difference that counts as equal, relative to the mean square, in float32.
TOLERANCE = 1e-6


class BlockCheck(NamedTuple):
    """What running blocks one by one came to.

    why_not: why they cannot be tuned so, empty where they can. streams: how many streams of the
    hidden width a token has between blocks. on_text: whether any of them runs on text.
    """

    why_not: str
    streams: int = 1
    on_text: bool = True


def check_blocks(copy: SmallCopy, observed: Observed) -> BlockCheck:
    """Run the blocks of a small copy one by one, and compare with its own forward.

    Args:
        copy: a small copy of the model.
        observed: what its own forward showed.
    """
    reason = _why_not_once(copy, observed)
    if reason:
        return BlockCheck(reason, on_text=any(path in observed.runs for path in copy.blocks))
    skeleton = adopt_model(copy.model)
    runner = BlockRunner(skeleton, device=torch.device("cpu"), dtype=torch.float32)
    ids = copy.batch(SAMPLES, LENGTH, seed=1)
    try:
        runner.prepare(ids)
        first = runner.embed(ids[:BATCH])
        return BlockCheck(_differing_block(copy, runner, ids), math.prod(first.shape[2:-1]))
    except ModelError as error:
        return BlockCheck(str(error))
    except Exception as error:  # somebody else's code fails in many unrelated ways
        return BlockCheck(f"its blocks cannot be run by themselves: {one_line(error)}")


def _why_not_once(copy: SmallCopy, observed: Observed) -> str:
    """Return which blocks do not run exactly once in a forward pass of text."""
    never = [path for path in copy.blocks if path not in observed.runs]
    often = next((path for path in copy.blocks if observed.runs.get(path, 0) > 1), "")
    if often:
        times = observed.runs[often]
        return f"block {often} runs {times} times in a forward pass; blocks are tuned on one run"
    # Cross-attention to images is not run on text alone.
    if len(never) == len(copy.blocks):
        return f"its blocks ({copy.blocks[0]} …) do not run on text"
    others = sorted(other_lists(copy.blocks, observed))
    if others:
        return f"text runs through another list of blocks ({others[0]}), which would not be tuned"
    return ""


def other_lists(blocks: Sequence[str], observed: Observed) -> frozenset[str]:
    """Return the paths of lists, beside the decoder blocks, whose entries run on text.

    Args:
        blocks: paths of the decoder blocks.
        observed: what the class's own forward showed.
    """
    inside = tuple(f"{path}." for path in blocks)
    lists = {path.rpartition(".")[0] for path in observed.runs if not path.startswith(inside)}
    return frozenset(lists - {path.rpartition(".")[0] for path in blocks})


def _differing_block(copy: SmallCopy, runner: BlockRunner, ids: Tensor) -> str:
    """Run batches through the blocks in turns; returns where one differs, or an empty text."""
    batches = [torch.arange(0, BATCH), torch.arange(BATCH, 2 * BATCH)]
    wanted = [_outputs(copy, ids[rows]) for rows in batches]
    hidden = [runner.embed(ids[rows]) for rows in batches]
    for tensor in hidden:
        if tensor.shape[:2] != (BATCH, LENGTH):
            return (
                f"its blocks pass on a tensor of shape {tuple(tensor.shape)} for {BATCH} samples "
                f"of {LENGTH} tokens; the first axes must be samples and tokens"
            )
    for index, path in enumerate(copy.blocks):
        weights = _tensors(copy.model.get_submodule(path))
        for i, rows in enumerate(batches):
            hidden[i] = runner.run(index, weights, hidden=hidden[i], rows=rows)
            if path in wanted[i] and not _alike(hidden[i], wanted[i][path]):
                return (
                    f"block {path} computes something else when it is run by itself: state that "
                    "one block leaves for another is not carried between batches"
                )
    return ""


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _outputs(copy: SmallCopy, ids: Tensor) -> dict[str, Tensor]:
    """Return the outputs of all blocks in the model's own forward, by path."""
    outputs: dict[str, Tensor] = {}

    def take(path: str, hidden: Tensor) -> None:
        # A later block may change it in place.
        outputs[path] = hidden.clone()

    with torch.no_grad(), watch_outputs(copy.model, copy.blocks, take):
        copy.model(input_ids=ids, use_cache=False)
    return outputs


def _alike(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and relative_square_error(one, other) <= TOLERANCE
