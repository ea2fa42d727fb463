"""Open the writer of a format: formats name it by a word, this table maps the word."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from autoround.export.config_check import check_configs
from autoround.export.expected_tensors import expected_tensors
from autoround.export.gguf_writer import GgufWriter, gguf_fields
from autoround.export.load_check import Loader
from autoround.export.safetensors_writer import SafetensorsWriter, output_config
from autoround.export.shards import ShardWriter
from autoround.export.staging import Staging
from autoround.export.verify import ReadBackCheck
from autoround.export.writer import OutputWriter
from autoround.formats.gguf.format import file_type_of
from autoround.formats.registry import format_of
from autoround.model.skeleton import Skeleton
from autoround.session.session import Session
from autoround.storage.files import write_by
from autoround.types import OutputPlan, Plan


def check_metadata(plan: Plan, skeleton: Skeleton, tokenizer: Any) -> None:
    """Refuse a tokenizer or a model that metadata or configs of planned files cannot express.

    Args:
        plan: with its further passes.
        skeleton: the model.
        tokenizer: as it is to be written.

    Raises:
        FormatError: with what has no place in the file.
        ModelError: a config that would be written does not make the model again.
    """
    outputs = [(each, output) for each in plan.passes for output in each.outputs]
    described = (
        WRITERS[format_of(output).writer].describe(each, output, skeleton, tokenizer)
        for each, output in outputs
    )
    check_configs([config for config in described if config is not None], skeleton)


@dataclass(frozen=True, slots=True)
class OutputTarget:
    """Where an output goes, and what goes into it beside the plan.

    root: folder that the formats of a run share. stack: closes what is opened. load: what a user
    loads a result by, for the last check; None not to try.
    """

    root: Path
    stack: ExitStack
    tokenizer: Any
    max_shard_bytes: int
    load: Loader | None = None


Opener: TypeAlias = Callable[[Session, OutputPlan, OutputTarget], OutputWriter]


def open_writer(session: Session, part: OutputPlan, target: OutputTarget) -> OutputWriter:
    """Open the writer of one format.

    Args:
        session: the pass that it writes.
        part: the format.
        target: where to.
    """
    return WRITERS[format_of(part).writer].open(session, part, target)


def _open_safetensors(session: Session, part: OutputPlan, target: OutputTarget) -> OutputWriter:
    folder = target.root / part.folder
    shards = ShardWriter(folder, max_shard_bytes=target.max_shard_bytes)
    target.stack.enter_context(shards)
    _write_side_files(shards, session.skeleton, target.tokenizer)
    shards.expect(expected_tensors(session, part))
    return SafetensorsWriter(
        shards,
        session.plan,
        part=part,
        skeleton=session.skeleton,
        check=_check(session),
        load=target.load,
    )


def _open_gguf(session: Session, part: OutputPlan, target: OutputTarget) -> OutputWriter:
    staging = target.stack.enter_context(Staging(target.root / part.folder))
    _write_side_files(staging, session.skeleton, target.tokenizer)
    writer = GgufWriter(
        staging,
        session.plan,
        part=part,
        skeleton=session.skeleton,
        tokenizer=target.tokenizer,
        check=_check(session),
    )
    target.stack.callback(writer.close)
    return writer


def _config(
    plan: Plan, part: OutputPlan, skeleton: Skeleton, tokenizer: Any
) -> dict[str, Any] | None:
    return output_config(plan, part, skeleton)


def _check_fields(plan: Plan, part: OutputPlan, skeleton: Skeleton, tokenizer: Any) -> None:
    """Refuse what the fields of a GGUF file cannot say; the file has no config beside it."""
    gguf_fields(skeleton, tokenizer, model=plan.model, file_type=file_type_of(part))


class WriterKind(NamedTuple):
    """What a word for a writer stands for.

    open: opens the writer. describe: returns the config.json that it will write, None where it
    writes none, from the plan, the format, the model and its tokenizer.
    """

    open: Opener
    describe: Callable[[Plan, OutputPlan, Skeleton, Any], dict[str, Any] | None]


#: Writers by the word that formats have for them.
WRITERS: Mapping[str, WriterKind] = {
    "safetensors": WriterKind(_open_safetensors, _config),
    "gguf": WriterKind(_open_gguf, _check_fields),
}


def _check(session: Session) -> ReadBackCheck:
    ids = None if session.tokens is None else session.tokens.ids
    # A block in float32 is more than a device may have left that tunes with as little as it can.
    on_device = session.runtime.own_memory and not session.tuning.low_memory
    if not on_device:
        return ReadBackCheck(session.skeleton, session.plan, ids=ids)
    runtime = session.runtime
    return ReadBackCheck(
        session.skeleton, session.plan, ids=ids, device=runtime.device, upload=runtime.upload
    )


def _write_side_files(staging: Staging, skeleton: Skeleton, tokenizer: Any) -> None:
    """Write what goes with a model whatever its weights are: tokenizer, generation, licence."""
    if skeleton.folder is not None:
        staging.copy_side_files(skeleton.folder)
        return
    generation = getattr(skeleton.model, "generation_config", None)
    if generation is not None:
        write_by(staging.staging, generation.save_pretrained)
    if tokenizer is not None:
        write_by(staging.staging, tokenizer.save_pretrained)
