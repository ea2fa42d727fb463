"""Fisher pass: one forward of the full-precision model, one backward of sampled gradients.

The backward's gradients are those of the log-likelihood of labels sampled from the model itself.
The inputs of each block are kept, on the disk where that is much, so that no more than one block
is in memory in either direction.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from autoround.core import sensitivity as core
from autoround.errors import OutputError
from autoround.model.importance import Importance
from autoround.model.runner import BlockRunner
from autoround.session.activations import ActivationFiles
from autoround.session.loaded_block import (
    LoadedBlock,
    in_kept_dtype,
    load_block,
    observe_inputs,
    read_block,
)
from autoround.session.session import POSITION_CHUNK, Session, make_runner
from autoround.storage.files import temporary_folder

#: Bytes of block inputs above which they are kept on the disk.
IN_MEMORY = 1 << 28


class FisherPass(NamedTuple):
    """What both directions share.

    block_inputs: [n, seq, hidden] for each block, and last the outputs of the last one.
    importance: input statistics of the layers of each block. num_tokens: without padding.
    """

    session: Session
    runner: BlockRunner
    block_inputs: Sequence[Tensor]
    importance: list[Importance]
    num_tokens: int
    files: ActivationFiles | None

    def release_pages(self) -> None:
        """Give back the memory of what is on the disk."""
        if self.files is not None:
            self.files.release_pages()

    def batches(self) -> Iterator[Tensor]:
        """Yield the rows of one batch after the other."""
        rows = torch.arange(len(self.block_inputs[0]))
        yield from rows.split(self.session.tuning.batch_size)


@contextmanager
def open_fisher_pass(session: Session, folder: Path | None) -> Iterator[FisherPass]:
    """Make room for the block inputs, and embed the tokens.

    Args:
        session: the pass; it has tokens.
        folder: for block inputs that do not fit the memory; None is the system's own.

    Raises:
        OutputError: the folder cannot be used, or its disk is full.
    """
    assert session.tokens is not None
    runner = make_runner(session, compiled=False)
    ids, media = session.tokens.ids, session.tokens.media
    runner.prepare(ids, media)
    first = runner.embed(ids[:1], media[:1])
    shape, dtype = (*ids.shape, first.shape[-1]), session.compute_dtype
    count = len(session.plan.blocks) + 1
    size = int(torch.tensor(shape).prod()) * dtype.itemsize * count
    num_tokens = int(session.tokens.mask.sum())
    if size <= IN_MEMORY:
        inputs = [torch.empty(shape, dtype=dtype) for _ in range(count)]
        _embed(session, runner, inputs[0])
        yield FisherPass(session, runner, inputs, [], num_tokens, None)
        return
    with _temporary_folder(folder) as room:
        # Two files a name.
        names = [str(number) for number in range((count + 1) // 2)]
        files = ActivationFiles(room, shape, dtype, names)
        files.allocate()
        inputs = [files.mapped(str(number // 2), number % 2) for number in range(count)]
        try:
            _embed(session, runner, inputs[0])
            yield FisherPass(session, runner, inputs, [], num_tokens, files)
        finally:
            inputs.clear()
            files.remove()


@contextmanager
def _temporary_folder(folder: Path | None) -> Iterator[Path]:
    """Make a folder for activations, and remove it at the end.

    Raises:
        OutputError: it cannot be made.
    """
    with ExitStack() as stack:
        try:
            room = stack.enter_context(temporary_folder(folder, "autoround-"))
        except OSError as error:
            where = "the system's temporary folder" if folder is None else folder
            raise OutputError(f"{where} cannot be used: {error}") from error
        yield room


def _embed(session: Session, runner: BlockRunner, inputs: Tensor) -> None:
    """Write the inputs of the first block, [n, seq, hidden]."""
    assert session.tokens is not None
    ids, media = session.tokens.ids, session.tokens.media
    size = session.tuning.batch_size
    for start in range(0, len(ids), size):
        some = slice(start, start + size)
        inputs[some] = runner.embed(ids[some], media[some]).to("cpu")
    runner.release()


def open_block(fisher: FisherPass, index: int) -> LoadedBlock:
    """Read a block."""
    session = fisher.session
    plan = session.plan.blocks[index]
    stored = in_kept_dtype(session.plan, plan, read_block(session, plan))
    return load_block(session, fisher.runner, plan, plan.by_param(stored))


@torch.no_grad()
def forward_original(fisher: FisherPass) -> None:
    """Run the full-precision model, collecting the layers' input statistics."""
    session = fisher.session
    assert session.tokens is not None
    for plan in session.plan.blocks:
        block = open_block(fisher, plan.index)
        importance = Importance()
        with observe_inputs(session, plan, into=importance):
            for rows in fisher.batches():
                importance.mask(session.tokens.mask[rows] if session.tokens.padded else None)
                hidden = fisher.block_inputs[plan.index][rows].to(session.runtime.device)
                out = block.forward(hidden, rows)
                fisher.block_inputs[plan.index + 1][rows] = out.to("cpu")
                fisher.release_pages()
        fisher.importance.append(importance)


def position_chunks(fisher: FisherPass) -> Iterator[tuple[int, slice]]:
    """Yield samples and ranges of their positions, so many that a large vocabulary fits."""
    assert fisher.session.tokens is not None
    for row, length in enumerate(fisher.session.tokens.lengths.tolist()):
        for start in range(0, length, POSITION_CHUNK):
            yield row, slice(start, min(start + POSITION_CHUNK, length))


def output_chunks(fisher: FisherPass) -> Iterator[Tensor]:
    """Yield outputs of the last block, [1, positions, hidden] on the device."""
    for row, part in position_chunks(fisher):
        yield fisher.block_inputs[-1][row : row + 1, part].to(fisher.session.runtime.device)


def sampled_gradients(fisher: FisherPass) -> Tensor:
    """Sample a label at every position, and differentiate its negative log-likelihood.

    Returns:
        Gradients for the outputs of the last block, [n, seq, hidden]; zero where a token is
        padding.
    """
    outer = fisher.runner.outer()
    last = fisher.block_inputs[-1]
    grads = torch.zeros(last.shape, dtype=last.dtype)
    generator = torch.Generator().manual_seed(fisher.session.tuning.seed)
    for row, part in position_chunks(fisher):
        outputs = last[row : row + 1, part].to(fisher.session.runtime.device).requires_grad_()
        logits = fisher.runner.head(outer, outputs)[0]
        of_logits = core.sampled_gradient(logits.detach(), generator=generator)
        of_outputs = torch.autograd.grad(logits, outputs, of_logits.to(logits.dtype))[0]
        grads[row, part] = of_outputs[0].cpu()
    return grads
