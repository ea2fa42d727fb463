"""What a run does when a device's memory is full: smaller parts of a batch, then less on it.

A batch goes through a block in parts whose gradients are summed, so that its numbers are the same
but for the order of sums. What was found to fit stays for the blocks after it, and is kept with
each block's figures, so that a resumed run takes the same.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import TypeVar

from autoround.core.reconstruction import Hyperparameters
from autoround.device.protocol import Runtime
from autoround.errors import DeviceError, one_line
from autoround.events import Warned
from autoround.session.session import Session
from autoround.types import BlockResult

T = TypeVar("T")


def refuse_full_memory(error: RuntimeError, runtime: Runtime) -> None:
    """Say in words that the device's memory is full, where no part can be made smaller.

    Args:
        error: that the work ended with.
        runtime: of the device.

    Raises:
        DeviceError: that is what the error says.
    """
    if not runtime.out_of_memory(error):
        return
    memory = runtime.memory()
    raise DeviceError(
        f"the memory of {runtime.device} is too small ({one_line(error)}); "
        f"{memory.free / 1e9:.1f} of {memory.total / 1e9:.1f} GB are free: lower "
        "calibration.seqlen, tuning.batch_size or end_to_end.batch_size, or take --low-memory; "
        "finished blocks are kept for --resume"
    ) from error


class StepMemory:
    """How much of a batch is on the device at a time, lowered each time that its memory is full.

    Args:
        session: the pass.
        units: what batches are made of, for people.
        give_up: drops what lies on the device beside the work that failed; it is told whether
            activations have to leave the device, too.
    """

    def __init__(
        self, session: Session, *, units: str = "samples", give_up: Callable[[bool], None]
    ) -> None:
        self._session, self._units, self._give_up = session, units, give_up
        low = session.tuning.low_memory
        #: Samples that go through a block at a time; 0 for a whole batch.
        self.micro_batch = 1 if low else 0
        #: Whether as little as possible is on the device beside a step, as ``low_memory`` has it.
        self.on_host = low

    def part(self, batch: int) -> int:
        """Return how many samples of a batch go through at a time.

        Args:
            batch: samples of it.
        """
        return min(self.micro_batch or batch, batch)

    def fit(self, plain: Hyperparameters) -> Hyperparameters:
        """Return hyperparameters with what fits the device.

        Args:
            plain: those of the pass.
        """
        return plain._replace(
            micro_batch=self.micro_batch, best_on_cpu=plain.best_on_cpu or self.on_host
        )

    def adopt(self, result: BlockResult) -> None:
        """Go on with what fitted for an earlier block.

        Args:
            result: of that block.
        """
        moves = result.streams_on_host and not self.on_host
        self.micro_batch = int(result.micro_batch) or self.micro_batch
        self.on_host = self.on_host or bool(result.streams_on_host)
        if moves:
            self._give_up(True)

    def run(self, work: Callable[[], T], *, where: str, batch: int = 1) -> T:
        """Do work, again with less on the device each time that memory is full.

        Args:
            work: to be begun anew, or to go on by itself where it left off. It reads what fits
                from here.
            where: it is done, for people.
            batch: samples that it would take at a time; 1 where their number does not matter.

        Raises:
            DeviceError: nothing is left to be lowered.
        """
        while True:
            try:
                return work()
            except RuntimeError as error:
                if not self._session.runtime.out_of_memory(error):
                    raise
                reason = one_line(error)
            # Out of the handler: the error holds frames, and these what the work had made.
            self._lower(reason, where=where, part=self.part(batch))
            # A step and its recording refer to each other.
            gc.collect()
            self._session.runtime.release()

    def _lower(self, reason: str, *, where: str, part: int) -> None:
        device = self._session.runtime.device
        if part > 1:
            self.micro_batch = part // 2
            told = (
                f"{part} {self._units} of a batch at a time; it begins anew with {part // 2} at a "
                "time, which changes nothing but the order of sums"
            )
        elif not self.on_host:
            self.on_host = True
            told = (
                "all that it may hold; activations go to the host's memory, and nothing is "
                "prefetched or recorded, as with --low-memory: slower, with the same result but "
                "for the order of sums"
            )
        else:
            raise DeviceError(self._too_little(reason, where))
        self._session.sink(Warned(f"{where}: the memory of {device} is too small for {told}"))
        self._give_up(self.on_host)

    def _too_little(self, reason: str, where: str) -> str:
        runtime, tuning = self._session.runtime, self._session.tuning
        memory = runtime.memory()
        lower = ["calibration.seqlen"]
        if tuning.uses_gptq:
            lower.append("take tuning.init_rounding=nearest, which needs no Hessians")
        return (
            f"{where}: the memory of {runtime.device} is too small even for one of its "
            f"{self._units} at a time with all activations in the host's memory ({reason}); "
            f"{memory.free / 1e9:.1f} of {memory.total / 1e9:.1f} GB are free: lower "
            f"{', or '.join(lower)}, end other programs on the device, or take a larger one or "
            "--device cpu; finished blocks are kept for --resume"
        )


def split_at_marks(marks: Sequence[int], count: int, size: int) -> list[slice]:
    """Cut samples into parts of up to a size, none of which lies across a mark.

    Args:
        marks: the first sample, and where parts ended that broke off.
        count: where the samples end.
        size: of a part.

    Returns:
        The parts, in order.
    """
    parts, start = [], marks[0]
    while start < count:
        stop = min(start + size, count, *(mark for mark in marks if mark > start))
        parts.append(slice(start, stop))
        start = stop
    return parts
