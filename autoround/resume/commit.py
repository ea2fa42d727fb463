"""What becomes of a finished unit: packed once, recorded behind the tuning, read again."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from autoround.device.protocol import Runtime
from autoround.formats.registry import format_of
from autoround.session.activations import ActivationStreams
from autoround.session.block_output import BlockOutput
from autoround.session.checkpoints import AfterWaiting
from autoround.session.packed_weights import pack_output, packs_at_once
from autoround.session.session import Session
from autoround.session.task_queue import Behind, Immediately, TaskQueue


def pack_unit(session: Session, output: BlockOutput) -> BlockOutput:
    """Pack a unit once for its record and for the first format, unless nobody asks for that.

    Args:
        session: the pass.
        output: the unit.

    Raises:
        VerificationError: a weight does not come back as it was.
    """
    first = session.plan.outputs[0]
    if format_of(first).gguf_types:
        # Its blocks are made on the host, and so is the record: codes leave the device once.
        output = output.on(torch.device("cpu"))
    if session.store is None and not packs_at_once(first.packing):
        return output
    return pack_output(output, {layer.name: layer for layer in session.plan.layers}, first)


def commit_unit(
    session: Session,
    output: BlockOutput,
    streams: ActivationStreams | None,
    *,
    names: Sequence[str],
) -> None:
    """Have a unit recorded behind the tuning; its streams are saved before that goes on.

    Args:
        session: the pass; it has a store.
        output: the unit.
        streams: inputs of the next block; None where none goes on.
        names: the streams among them that are read again.

    Raises:
        OutputError: the disk is full, or cannot be written to.
    """
    store, tasks = session.store, session.tasks
    assert store is not None
    # The next block writes over the inputs of this one, which its own record must not need then.
    mapped = streams is not None and streams.mapped
    if mapped:
        tasks.drain()
    finish = store.begin_commit(
        output,
        streams=streams,
        names=names,
        whole=session.skeleton.stream is not None
        and output.result.index < len(session.plan.blocks),
        checkpoints=AfterWaiting(session.checkpoints, tasks.drain),
    )
    tasks.put(finish, lasting=True)
    if mapped:
        tasks.drain()


def on_device(session: Session, output: BlockOutput) -> BlockOutput:
    """Bring a block from its record to where it is packed, unless memory there is short.

    Args:
        session: the pass.
        output: the block.
    """
    if not session.runtime.own_memory or session.tuning.low_memory:
        return output
    return output.on(session.runtime.device)


def choose_tasks(runtime: Runtime) -> TaskQueue:
    """Return what records and files are written by.

    Args:
        runtime: of the device. One with memory of its own leaves the host free while it tunes.
    """
    return Behind() if runtime.own_memory else Immediately()
