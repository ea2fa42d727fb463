"""The activation streams that a pass begins with, or goes on from."""

from __future__ import annotations

import torch
from torch import Tensor

from autoround.model.runner import BlockRunner
from autoround.session.activations import ActivationFiles, ActivationStreams
from autoround.session.session import Session
from autoround.settings import FULL, QUANTIZED


def open_streams(session: Session, runner: BlockRunner) -> ActivationStreams:
    """Return the embedded calibration tokens, or what a finished block left in the store.

    ``blocks`` of them says which: the first block that they are inputs of. Blocks after it may be
    finished, too, where not every one left its outputs.

    Args:
        session: the pass; it has tokens.
        runner: learns here how the model calls its blocks.

    Raises:
        OutputError: the disk has no room for them, or they are not what was left there.
    """
    assert session.tokens is not None
    ids, media = session.tokens.ids, session.tokens.media
    mask = session.tokens.mask if session.tokens.padded else None
    runner.prepare(ids, media)
    first = runner.embed(ids[:1], media[:1])
    store, files = session.store, None
    if store is not None:
        shape = (len(ids), *first.shape[1:])
        files = store.files(shape, first.dtype, names=session.tuning.streams)
        files.allocate()
        last = store.checkpoint(session.finished_blocks - 1)
        if last is not None:
            runner.release()
            mapped = session.placement.streams_on_disk
            streams = store.streams(last, files, mask=mask, mapped=mapped)
            return streams.on(session.stream_device)
    return _embed(session, runner, mask, files)


def _embed(
    session: Session, runner: BlockRunner, mask: Tensor | None, files: ActivationFiles | None
) -> ActivationStreams:
    """Embed the calibration tokens, a batch at a time."""
    assert session.tokens is not None
    ids, media = session.tokens.ids, session.tokens.media
    # Images of one sample may have another size than those of the next.
    size = 1 if media else session.tuning.forward_batch_size
    device, mapped = session.stream_device, session.placement.streams_on_disk
    full: Tensor | None = None
    for start in range(0, len(ids), size):
        some = slice(start, start + size)
        part = runner.embed(ids[some], media[some]).to(device)  # [batch, seq, hidden]
        if full is None:
            if files is not None and mapped:
                full = files.mapped(FULL, 0)
            else:
                full = torch.empty((len(ids), *part.shape[1:]), dtype=part.dtype, device=device)
        full[some] = part
    assert full is not None
    runner.release()
    streams = ActivationStreams(full, full, mask, files, mapped and files is not None)
    if not streams.mapped:
        streams.quantized = full.clone()
    elif files is not None and QUANTIZED in files.names:
        streams.quantized = files.mapped(QUANTIZED, 0)
        streams.quantized.copy_(full)
    return streams
