"""The activation streams that a pass begins with, or goes on from."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from autoround.data.tokens import Tokens
from autoround.model.runner import BlockRunner
from autoround.session.activations import ActivationFiles, ActivationStreams
from autoround.session.session import Session
from autoround.settings import FRESH, FULL, QUANTIZED


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
    tokens, fresh = session.tokens, session.fresh_tokens
    ids, media = tokens.ids, tokens.media
    mask = tokens.mask if tokens.padded else None
    if fresh is None:
        runner.prepare(ids, media)
    else:
        # Blocks may be called by the numbers of samples: fresh ones come after the others.
        runner.prepare(torch.cat([ids, fresh.ids]), (*media, *fresh.media))
    first = runner.embed(ids[:1], media[:1])
    store, files = session.store, None
    if store is not None:
        shape = (len(ids), *first.shape[1:])
        count = 0 if fresh is None else len(fresh.ids)
        files = store.files(shape, first.dtype, names=session.stream_names, fresh=count)
        files.allocate()
        last = store.checkpoint(session.finished_blocks - 1)
        if last is not None:
            runner.release()
            mapped = session.placement.streams_on_disk
            streams = store.streams(last, files, mask=mask, mapped=mapped)
            return streams.on(session.stream_device)
    return _embed_streams(session, runner, mask, files)


def _embed_streams(
    session: Session, runner: BlockRunner, mask: Tensor | None, files: ActivationFiles | None
) -> ActivationStreams:
    """Embed the calibration tokens, and the fresh ones."""
    assert session.tokens is not None
    mapped_in = files if session.placement.streams_on_disk else None
    full = _embed(session, runner, session.tokens, _Place(FULL, session.stream_device, mapped_in))
    fresh = None
    if session.fresh_tokens is not None:
        # They are read once a block, so that they need no room on the device.
        place = _Place(FRESH, torch.device("cpu"), mapped_in)
        fresh = _embed(session, runner, session.fresh_tokens, place)
    runner.release()
    streams = ActivationStreams(full, full, mask, files, mapped_in is not None, fresh=fresh)
    if mapped_in is None:
        streams.quantized = full.clone()
    elif QUANTIZED in mapped_in.names:
        streams.quantized = mapped_in.mapped(QUANTIZED, 0)
        streams.quantized.copy_(full)
    return streams


class _Place(NamedTuple):
    """Where a stream is to be: in a mapped file, or else on a device."""

    name: str
    device: torch.device
    files: ActivationFiles | None


def _embed(session: Session, runner: BlockRunner, tokens: Tokens, place: _Place) -> Tensor:
    """Embed tokens, a batch at a time."""
    ids, media = tokens.ids, tokens.media
    # Images of one sample may have another size than those of the next.
    size = 1 if media else session.tuning.forward_batch_size
    stream: Tensor | None = None
    for start in range(0, len(ids), size):
        some = slice(start, start + size)
        part = runner.embed(ids[some], media[some]).to(place.device)  # [batch, seq, hidden]
        if stream is None:
            shape = (len(ids), *part.shape[1:])
            if place.files is not None:
                stream = place.files.mapped(place.name, 0)
            else:
                stream = torch.empty(shape, dtype=part.dtype, device=place.device)
        stream[some] = part
    assert stream is not None
    return stream
