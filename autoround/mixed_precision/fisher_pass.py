"""The way that judging layers goes: the original's stream forward, its answers' gradients back.

What enters each block is kept, on the disk where that is much, so that no more than one block is
in memory on either way.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from autoround.core import sensitivity as core
from autoround.errors import OutputError
from autoround.model.importance import Importance
from autoround.model.runner import BlockRunner
from autoround.session.activations import ActivationFiles
from autoround.session.session import (
    POSITION_CHUNK,
    Session,
    by_param,
    observing_layers,
    with_kept_dtypes,
)
from autoround.types import BlockPlan

#: Bytes of what enters the blocks above which it is kept on the disk.
IN_MEMORY = 1 << 28


class FisherPass(NamedTuple):
    """What the whole way shares.

    entered: for each block what enters it, [n, seq, hidden], and last what the last one puts out.
    driven: what drives the layers of each block. real: how many tokens are no padding.
    """

    job: Session
    runner: BlockRunner
    entered: Sequence[Tensor]
    driven: list[Importance]
    real: int
    files: ActivationFiles | None

    def rest(self) -> None:
        """Give back the memory of what is on the disk."""
        if self.files is not None:
            self.files.rest()

    def parts(self) -> Iterator[Tensor]:
        """Yield the rows of one batch after the other."""
        yield from torch.arange(len(self.entered[0])).split(self.job.recipe.tuning.batch_size)


class OpenedBlock(NamedTuple):
    """One block in memory: its plan, its tensors on the device by their names inside it."""

    plan: BlockPlan
    tensors: dict[str, Tensor]


@contextmanager
def open_fisher_pass(
    job: Session, runner: BlockRunner, folder: Path | None
) -> Iterator[FisherPass]:
    """Make room for what enters the blocks, and let the first be entered."""
    assert job.tokens is not None
    ids, media = job.tokens.ids, job.tokens.media
    runner.prepare(ids, media)
    first = runner.embed(ids[:1], media[:1])
    shape = (*ids.shape, first.shape[-1])
    count = len(job.plan.blocks) + 1
    size = int(torch.tensor(shape).prod()) * job.compute.itemsize * count
    held = int(job.tokens.mask.sum())
    if size <= IN_MEMORY:
        entered = [torch.empty(shape, dtype=job.compute) for _ in range(count)]
        yield FisherPass(job, runner, _embedded(job, runner, entered), [], held, None)
        return
    with _room(folder) as room:
        # Two files a name.
        names = [str(number) for number in range((count + 1) // 2)]
        files = ActivationFiles(Path(room), shape, job.compute, names)
        files.allocate()
        entered = [files.mapped(str(number // 2), number % 2) for number in range(count)]
        try:
            yield FisherPass(job, runner, _embedded(job, runner, entered), [], held, files)
        finally:
            entered.clear()
            files.remove()


@contextmanager
def _room(folder: Path | None) -> Iterator[str]:
    """Make a folder for activations, and remove it at the end.

    Raises:
        OutputError: it cannot be made.
    """
    try:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        room = tempfile.TemporaryDirectory(prefix="autoround-", dir=folder)
    except OSError as error:
        raise OutputError(f"{folder or tempfile.gettempdir()} cannot be used: {error}") from error
    with room as place:
        yield place


def _embedded(job: Session, runner: BlockRunner, entered: list[Tensor]) -> list[Tensor]:
    assert job.tokens is not None
    ids, media = job.tokens.ids, job.tokens.media
    for start in range(0, len(ids), job.recipe.tuning.batch_size):
        some = slice(start, start + job.recipe.tuning.batch_size)
        entered[0][some] = runner.embed(ids[some], media[some]).to("cpu")
    runner.release()
    return entered


def open_block(course: FisherPass, index: int) -> OpenedBlock:
    """Read a block."""
    job, plan = course.job, course.job.plan.blocks[index]
    stored = with_kept_dtypes(job, plan, job.skeleton.read(job.skeleton.names_under(plan.name)))
    return OpenedBlock(
        plan, course.runner.place(by_param(plan, stored)) | course.runner.buffers(index)
    )


@torch.no_grad()
def forward_original(course: FisherPass) -> None:
    """Run the original, noting what drives the layers."""
    job = course.job
    assert job.tokens is not None
    for plan in job.plan.blocks:
        block = open_block(course, plan.index)
        driven = Importance()
        with observing_layers(job, plan, into=driven):
            for rows in course.parts():
                driven.mask(job.tokens.mask[rows] if job.tokens.padded else None)
                hidden = course.entered[plan.index][rows].to(job.runtime.device)
                out = course.runner.run(plan.index, block.tensors, hidden=hidden, rows=rows)
                course.entered[plan.index + 1][rows] = out.to("cpu")
                course.rest()
        course.driven.append(driven)


def position_chunks(course: FisherPass) -> Iterator[tuple[int, slice]]:
    """Yield samples and ranges of their positions, so many that a large vocabulary fits."""
    assert course.job.tokens is not None
    for row, length in enumerate(course.job.tokens.lengths.tolist()):
        for start in range(0, length, POSITION_CHUNK):
            yield row, slice(start, min(start + POSITION_CHUNK, length))


def output_chunks(course: FisherPass) -> Iterator[Tensor]:
    """Yield what the last block puts out, [1, positions, hidden] on the device."""
    for row, part in position_chunks(course):
        yield course.entered[-1][row : row + 1, part].to(course.job.runtime.device)


def sampled_gradients(course: FisherPass) -> Tensor:
    """Draw an answer at every position; returns the gradients for what the last block puts out.

    They are those of negative logarithms: [n, seq, hidden], zero where a token is padding.
    """
    outer = course.runner.outer()
    last = course.entered[-1]
    grads = torch.zeros(last.shape, dtype=last.dtype)
    generator = torch.Generator().manual_seed(course.job.recipe.seed)
    for row, part in position_chunks(course):
        own = last[row : row + 1, part].to(course.job.runtime.device).requires_grad_()
        logits = course.runner.head(outer, own)[0]
        drawn = core.sampled_gradient(logits.detach(), generator=generator)
        grads[row, part] = torch.autograd.grad(logits, own, drawn.to(logits.dtype))[0][0].cpu()
    return grads
