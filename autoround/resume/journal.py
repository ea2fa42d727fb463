"""What is done of a run, kept beside its output until that is complete.

``OUTPUT.journal`` holds who made it (``run.json``) and one folder for each pass over the blocks:
a record for each finished block, and the streams that go into the next one. A block counts as
done when its record has been renamed into place, after everything it speaks of is on the disk.
So a run can end at any instant, and goes on after the last record.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autoround.errors import FormatError, OutputError, one_line
from autoround.resume.records import (
    UnusableJournalError,
    read_facts,
    read_record,
    record_weights,
    recorded_weights,
    result_of,
    write_record,
)
from autoround.session.activations import ActivationFiles, ActivationStreams
from autoround.session.block_output import BlockOutput
from autoround.session.block_store import EVERY_BLOCK
from autoround.session.checkpoints import CheckpointPolicy
from autoround.session.packed_weights import pack_weights, unpack_weight
from autoround.session.task_queue import Task
from autoround.settings import FRESH, FULL, QUANTIZED
from autoround.storage.durable import make_synced, write_text
from autoround.storage.files import remove_file, remove_tree
from autoround.storage.lock import take_lock
from autoround.types import BlockResult

#: The file that says whose journal this is.
RUN = "run.json"
#: Version of the layout of a journal.
LAYOUT = 4
#: Before the names of unquantized tensors; layers have names before the bar.
KEPT = "|"
#: File that the process holds which works on a journal.
LOCK = "lock"
_RECORD = re.compile(r"^\d{5}\.safetensors$")


def journal_of(output: Path) -> Path:
    """Return where the journal of an output is."""
    whole = output.absolute()
    return whole.with_name(whole.name + ".journal")


def blocks_in(output: Path) -> int:
    """Count the finished blocks in the journal of an output; 0 where there is none."""
    folder = journal_of(output)
    # Takes any name, as Path's own method does not.
    if not os.path.isfile(folder / RUN):
        return 0
    return sum(_RECORD.match(path.name) is not None for path in folder.glob("pass-*/*"))


def read_header(folder: Path) -> dict[str, Any]:
    """Read what a journal says of its run.

    Args:
        folder: of the journal.

    Raises:
        UnusableJournalError: it is damaged, or of another version.
    """
    path = folder / RUN
    try:
        header = dict(json.loads(path.read_text(encoding="utf-8")))
        layout, _ = header["layout"], Path(header["streams"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        why = f"{path} is damaged ({error}); begin again with --restart"
        raise UnusableJournalError(why) from error
    if layout != LAYOUT:
        raise UnusableJournalError(
            f"{folder} has layout {layout}, and this version reads {LAYOUT}: go on with the "
            "version that began it, or begin again with --restart"
        )
    return header


class Journal:
    """The journal of one output, held by one run at a time."""

    def __init__(self, output: Path, *, work_dir: Path | None = None) -> None:
        self.folder = journal_of(output)
        self._work_dir = None if work_dir is None else work_dir.absolute()
        self._lock: int | None = None
        self._header: dict[str, Any] = {}

    @property
    def exists(self) -> bool:
        """Whether there is one to go on from."""
        return (self.folder / RUN).is_file()

    def open(self) -> Mapping[str, Any]:
        """Take an existing journal; returns what it says of its run.

        Raises:
            UnusableJournalError: it is damaged, or its streams are elsewhere than asked for.
            OutputError: it is in use.
        """
        self._take()
        path = self.folder / RUN
        header = read_header(self.folder)
        streams = Path(header["streams"])
        if not self._own(streams):
            raise UnusableJournalError(
                f"{path} names {streams} as its streams, which is no folder of theirs; begin again "
                "with --restart"
            )
        if self._work_dir is not None and self._work_dir != streams.parent:
            raise UnusableJournalError(
                f"the streams of {self.folder} are in {streams.parent}: leave --work-dir out"
            )
        self._header = dict(header)
        return self._header

    def create(self, header: Mapping[str, Any]) -> None:
        """Begin a journal; whatever an earlier one left is deleted.

        Raises:
            OutputError: the folder is somebody else's, in use, or cannot be written.
        """
        self.clear()
        self._take()
        if any(self.folder.glob("pass-*")):
            # Records of another run, which would be taken for this one's.
            raise OutputError(f"{self.folder} cannot be deleted; delete it, and begin again")
        streams = self.folder / "streams"
        if self._work_dir is not None:
            streams = self._work_dir / f"{self.folder.stem}-{uuid.uuid4().hex[:8]}.streams"
        self._header = {"layout": LAYOUT, "streams": str(streams), **header}
        write_text(self.folder / RUN, json.dumps(self._header, indent=1) + "\n")

    def _take(self) -> None:
        """Make the folder and keep other runs out of it, for as long as this process lives."""
        if self._lock is not None:
            return
        try:
            make_synced(self.folder)
        except OSError as error:
            raise OutputError(f"{self.folder} cannot be written: {error}") from error
        self._lock = take_lock(self.folder / LOCK, self.folder)

    def release(self) -> None:
        """Let others take the journal."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def clear(self) -> None:
        """Delete the journal and its streams; what others keep in a folder of its name stays.

        Raises:
            OutputError: the folder holds something that no run put there, or cannot be deleted.
        """
        if not self.folder.is_dir():
            return
        known = re.compile(r"run\.json(\.tmp)?|lock|streams|pass-\d+")
        unexpected = [p.name for p in self.folder.iterdir() if not known.fullmatch(p.name)]
        if unexpected:
            raise OutputError(
                f"{self.folder} exists and contains unexpected file {unexpected[0]!r}; move it, or "
                "choose another output"
            )
        self._take()
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            header = json.loads((self.folder / RUN).read_text(encoding="utf-8"))
            if self._own(streams := Path(header["streams"])):
                remove_tree(streams)
        # First of all: without it the rest is nothing that could be resumed.
        try:
            remove_file(self.folder / RUN)
        except OSError as error:
            raise OutputError(f"{self.folder} cannot be deleted: {error}") from error
        # Held until it is gone, so that no other run begins in what is being deleted.
        remove_tree(self.folder)
        self.release()

    def _own(self, streams: Path) -> bool:
        """Tell whether this journal made a folder: others' are neither used nor deleted."""
        outside = re.escape(self.folder.stem) + r"-[0-9a-f]{8}\.streams"
        if re.fullmatch(outside, streams.name):
            return "\0" not in str(streams)
        try:
            return streams.name == "streams" and streams.parent.samefile(self.folder)
        except (OSError, ValueError):  # such as a name with a null byte
            return False

    def of_pass(self, number: int) -> PassJournal:
        """Return the part of one pass over the blocks, from 1."""
        streams = Path(self._header["streams"]) / f"pass-{number}"
        return PassJournal(self.folder / f"pass-{number}", streams)


class PassJournal:
    """Finished units of one pass, in order: a unit is a block, or what else is tuned by itself."""

    def __init__(self, folder: Path, streams: Path) -> None:
        self._folder, self._streams = folder, streams
        try:
            make_synced(folder)
        except OSError as error:
            raise OutputError(f"{folder} cannot be made: {error}") from error
        self.done = 0
        while self._record(self.done).is_file():
            self.done += 1

    def _record(self, index: int) -> Path:
        return self._folder / f"{index:05d}.safetensors"

    def begin_commit(
        self,
        output: BlockOutput,
        *,
        streams: ActivationStreams | None,
        names: Sequence[str],
        whole: bool = False,
        checkpoints: CheckpointPolicy = EVERY_BLOCK,
    ) -> Task:
        """Save the activation streams of a unit, if they are due.

        Args:
            output: the unit; weights that are not packed are recorded as codes in their bits.
            streams: inputs of the next block; None where none goes on.
            names: the streams among them that are read again.
            whole: whether unquantized tensors are kept, too, because the model is not read again.
            checkpoints: decides whether streams in memory are kept; those in files always are.

        Returns:
            What writes the record, by which the unit is finished: on the disk alone.

        Raises:
            OutputError: the disk is full, or cannot be written to; the task may raise it, too.
        """
        sums: dict[str, int] = {}
        if streams is not None:
            kept = streams
            # Each file of a mapped stream holds the inputs of every second block in any case.
            due = EVERY_BLOCK if streams.mapped or not names else checkpoints
            sums = due.save(lambda: kept.save(names))
        unpacked = {n: x for n, x in output.layers.items() if n not in output.packed}
        tensors, layers = record_weights({**output.packed, **pack_weights(unpacked, {}, "")})
        if whole:
            # Copied: files hold no two tensors that share memory.
            tensors |= {KEPT + name: tensor.clone() for name, tensor in output.kept.items()}
        facts = {
            "result": dataclasses.asdict(output.result),
            "source": output.source,
            "layers": layers,
            "streams": sums,
            "generation": 0 if streams is None else streams.generation,
        }

        def finish() -> None:
            write_record(self._record(self.done), tensors, facts)
            self.done += 1

        return finish

    def read(self, index: int, kept: Mapping[str, Tensor], *, source: int | None) -> BlockOutput:
        """Return a finished unit.

        Args:
            index: of the unit.
            kept: its unquantized tensors, read from the model again; empty where the record is
                whole.
            source: checksum of all that the model holds for it; None where it was compared before.

        Raises:
            OutputError: the record is damaged, or the model is another by now.
        """
        path = self._record(index)
        tensors, facts = read_record(path)
        try:
            result, total = result_of(facts["result"]), facts["source"]
            packed = recorded_weights(tensors, facts["layers"])
            layers = {name: unpack_weight(weight) for name, weight in packed.items()}
        except (
            *(KeyError, TypeError, ValueError, AttributeError),
            *(ArithmeticError, RuntimeError, FormatError),
        ) as error:
            why = f"{path} is damaged ({one_line(error)}); begin again with --restart"
            raise UnusableJournalError(why) from error
        if source is not None and total != source:
            raise UnusableJournalError(
                f"the weights of {result.name} are not those that the run was begun with; begin "
                "again with --restart"
            )
        recorded = {n.removeprefix(KEPT): t for n, t in tensors.items() if n.startswith(KEPT)}
        return BlockOutput(layers, {**recorded, **kept}, result, total, packed)

    def result(self, index: int) -> BlockResult:
        """Return the figures of a finished unit.

        Args:
            index: of the unit.

        Raises:
            OutputError: its record is damaged.
        """
        path = self._record(index)
        try:
            return result_of(read_facts(path)["result"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            why = f"{path} is damaged ({one_line(error)}); begin again with --restart"
            raise UnusableJournalError(why) from error

    def files(
        self, shape: Sequence[int], dtype: torch.dtype, *, names: Sequence[str], fresh: int = 0
    ) -> ActivationFiles:
        """Return the files of the streams."""
        return ActivationFiles(self._streams, shape, dtype, names, fresh=fresh)

    def streams(
        self, index: int, files: ActivationFiles, *, mask: Tensor | None, mapped: bool
    ) -> ActivationStreams:
        """Return the streams as a finished block left them, whose record has them.

        Args:
            index: of that block.
            files: of the streams.
            mask: bool [n, seq], True where a token is real; None when all are.
            mapped: whether the streams live in their files.

        Raises:
            OutputError: they are not there, or damaged.
        """
        facts = read_record(self._record(index))[1]
        generation, sums = facts["generation"], facts["streams"]
        tensors: dict[str, Tensor] = {}
        for name, total in sums.items():
            if mapped:
                files.check(name, generation, total=total)
                tensors[name] = files.mapped(name, generation)
            else:
                tensors[name] = files.read(name, generation, total=total)
        full, fresh = tensors[FULL], tensors.get(FRESH)
        quantized = tensors.get(QUANTIZED, full if mapped else full.clone())
        return ActivationStreams(full, quantized, mask, files, mapped, generation, index + 1, fresh)

    def checkpoint(self, index: int) -> int | None:
        """Return the last unit whose streams were kept.

        Args:
            index: the last unit that may be it.

        Returns:
            Its number; None where no streams were kept.

        Raises:
            OutputError: a record is damaged.
        """
        for number in range(index, -1, -1):
            if read_facts(self._record(number))["streams"]:
                return number
        return None

    def keep_streams(self, index: int, streams: ActivationStreams, *, names: Sequence[str]) -> None:
        """Keep the streams that a finished unit left, which its record lacks.

        Args:
            index: of the unit, the last one.
            streams: as it left them.
            names: the streams among them that are read again.

        Raises:
            OutputError: the record is damaged, or the disk is full.
        """
        path = self._record(index)
        tensors, facts = read_record(path)
        sums = streams.save(names)
        kept = {**facts, "streams": sums, "generation": streams.generation}
        write_record(path, tensors, kept)

    def save_state(
        self, name: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]
    ) -> None:
        """Keep the state of something that takes long, in place of an earlier one."""
        write_record(self._folder / f"{name}.state", tensors, facts)

    def load_state(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return the state that was kept last; None where there is none."""
        path = self._folder / f"{name}.state"
        return read_record(path) if path.is_file() else None
