"""One tuning step: gradients of a batch, sign step, clamp; on a device one recording of all of it.

A recorded step is a function of its number alone. Which samples a step takes and its learning
rates are tables on the device, so that the host does no more than to say which step it is. One
entry more than there are steps has rates of zero: by it a step is tried, and moves nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from autoround.core import signsgd
from autoround.core.batches import Samples
from autoround.core.gradient_step import GradientStep
from autoround.core.ops import Ops
from autoround.core.reconstruction import BlockKind, Hyperparameters, Reconstruction, Step
from autoround.core.rounding import Rounding
from autoround.core.step_recordings import KeptStep, StepRecordings, agree


class _Group(NamedTuple):
    """Parameters that move at one rate.

    lr: of the first step. places: among offsets and, after these, factors.
    """

    lr: float
    places: tuple[int, ...]


class TuningStep:
    """Moves the roundings of a block against the signs of their gradients, step after step.

    Args:
        block: to reconstruct.
        iterate: its roundings by name, changed in place; gradients are asked for.
        hyperparameters: steps, learning rates and batches.
        ops: of the device. dtype: that the block computes in.
        recordings: of blocks before; None to record every block.
    """

    def __init__(
        self,
        block: Reconstruction,
        iterate: Mapping[str, Rounding],
        hyperparameters: Hyperparameters,
        *,
        ops: Ops,
        dtype: torch.dtype,
        recordings: StepRecordings | None = None,
    ) -> None:
        self._recordings, self._own_dtype = recordings, dtype
        self._block, self._hyperparameters, self._ops = block, hyperparameters, ops
        self._bind(iterate)
        self._gradients = GradientStep(
            block,
            iterate,
            [*self._offsets, *self._factors],
            hyperparameters=hyperparameters,
            ops=ops,
            dtype=dtype,
        )
        self._states = [signsgd.init(g.lr, hyperparameters.iters) for g in self._groups]
        self._recorded: Step | None = None
        self._candidate: KeptStep | None = None
        self._resident: dict[str, Tensor] = {}
        self._numbers = torch.empty(0)
        self._rates = torch.empty(0)
        capture = block.hooks.capture
        if capture is not None and block.capturable and self._gradients.takes_whole_batches:
            self._place_tables()
            self._find_recording()

    def _bind(self, iterate: Mapping[str, Rounding]) -> None:
        #: What steps move, by target.
        self.iterate = dict(iterate)
        self._offsets = [rounding.offset.requires_grad_() for rounding in iterate.values()]
        factors = [end for r in iterate.values() for end in (r.min_scale, r.max_scale)]
        if not self._hyperparameters.minmax_lr:
            factors = []  # no gradient is asked for, which spares the backward its sums
        self._factors = [factor.requires_grad_() for factor in factors]
        self._groups = self._by_lr(iterate)

    def _by_lr(self, iterate: Mapping[str, Rounding]) -> list[_Group]:
        """Put what moves at one rate together, offsets before factors."""
        lrs = [self._hyperparameters.lrs(name) for name in iterate]
        moving: dict[tuple[bool, float], list[int]] = {}
        for number, (lr, _) in enumerate(lrs):
            moving.setdefault((False, lr), []).append(number)
        for number in range(len(self._factors)):
            minmax_lr = lrs[number // 2][1]
            moving.setdefault((True, minmax_lr), []).append(len(self._offsets) + number)
        return [_Group(lr, tuple(places)) for (_, lr), places in moving.items()]

    def _move_of(self, group: _Group, grads: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return the parameters of a group, and their gradients."""
        params = [*self._offsets, *self._factors]
        return [params[i] for i in group.places], [grads[i] for i in group.places]

    @property
    def uploads(self) -> bool:
        """Whether batches are brought from the host's memory while the device computes."""
        return self._gradients.uploads

    def prefetch(self) -> None:
        """Start the next batch on its way to the device."""
        self._gradients.prefetch()

    def finish(self) -> None:
        """Let go of the recording after the last step.

        It refers to this object in turn, and its memory would be there until Python looks for such
        circles: beside the next block, even where no recording is kept for that.
        """
        self._recorded = self._candidate = None

    def take(self, step: int) -> Tensor:
        """Do a step.

        Args:
            step: its number from 1, one more at each call.

        Returns:
            The mean loss of its batches, a float32 scalar on the device, until the next step.
        """
        if self._rates.numel():
            return self._take_recorded(step - 1)
        grads, loss = self._gradients.next()
        for number, (group, state) in enumerate(zip(self._groups, self._states, strict=True)):
            params, signs = self._move_of(group, grads)
            self._states[number] = self._ops.sign_step(params, signs, state=state)
        self._clamp()
        return loss

    def _clamp(self) -> None:
        for factor in self._factors:
            factor.data.clamp_(0.0, self._hyperparameters.max_minmax_scale)

    def _place_tables(self) -> None:
        """Put the numbers of the steps and their rates on the device; its samples may be there."""
        iters = self._hyperparameters.iters
        rates = [
            [signsgd.linear_lr(state.lr, step, steps=iters) for state in self._states]
            for step in range(iters)
        ]
        rates.append([0.0] * len(self._states))
        tables = {"numbers": torch.arange(iters + 1), "rates": torch.tensor(rates)}
        upload = self._block.hooks.upload
        if upload is None:
            tables = {name: table.to(self._block.device) for name, table in tables.items()}
        else:
            tables = upload(tables).result()
        self._numbers, self._rates = tables["numbers"], tables["rates"]
        self._resident = self._gradients.resident()

    def _find_recording(self) -> None:
        """Take the recording of a block of this kind, and the tensors that it moves."""
        kind = self._block.kind
        if kind is None or self._recordings is None:
            return
        self._candidate = self._recordings.find(self._describe(kind, self._as_step))
        if self._candidate is not None:
            self._candidate.take(self._describe(kind, self._as_step))
            moved = self._candidate.iterate.values()
            self._bind(dict(zip(self.iterate, moved, strict=True)))
            self._gradients.move_to(self.iterate, [*self._offsets, *self._factors])

    def _describe(self, kind: BlockKind, step: Step) -> KeptStep:
        """Return all that a step of this block reads."""
        targets = self._block.targets.values()
        copied = dict(kind.private)
        for number, (target, rounding) in enumerate(
            zip(targets, self.iterate.values(), strict=True)
        ):
            parts = (target.groups, target.grid.lo, target.grid.hi, *rounding)
            copied |= {f"{number} {part}": tensor for part, tensor in enumerate(parts)}
        tables = {"rates": self._rates, **self._resident}
        # Samples are large: their recording reads them where they are.
        names: list[str] = [name for name in ("inputs", "targets") if name in tables]
        samples = {name: tables.pop(name) for name in names}
        copied |= {f"table {name}": tensor for name, tensor in tables.items()}
        grids = tuple((t.shape, t.grid.levels, t.grid.scales) for t in targets)
        most = self._hyperparameters.max_minmax_scale
        moving = tuple(group.places for group in self._groups)
        code = (kind.code, grids, most, moving, self._own_dtype, id(self._ops))
        return KeptStep(code, copied, {**kind.shared, **samples}, self.iterate, step)

    def _take_recorded(self, number: int) -> Tensor:
        batch = [] if self._resident else self._gradients.next_tensors()
        if self._recorded is None:
            # What is compared with a recording, and done to warm up, has rates of zero.
            self._recorded = self._record([self._numbers[-1:], *batch])
        loss = self._recorded([self._numbers[number : number + 1], *batch])[0]
        return loss

    def _record(self, examples: Sequence[Tensor]) -> Step:
        capture, kind = self._block.hooks.capture, self._block.kind
        assert capture is not None
        recordings = self._recordings
        if self._candidate is not None:
            exact = self._as_step(examples)
            if agree(self._candidate.step(examples), exact):
                return self._candidate.step
            del exact
            self._candidate = None
        if recordings is not None:
            recordings.clear()
        recorded = capture(self._as_step, examples)
        if recordings is not None and kind is not None and recorded != self._as_step:
            recordings.keep(self._describe(kind, recorded))
        return recorded

    def _as_step(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """Do the step of a number, int64 [1]; a capturable block does not ask which samples."""
        number, *batch = tensors
        if self._resident:
            # The last entry, which moves nothing, takes the samples of the first step.
            rows = self._resident["rows"].index_select(0, number)[0]
            names = [name for name in ("inputs", "targets", "mask") if name in self._resident]
            batch = [self._resident[name].index_select(0, rows) for name in names]
        inputs, targets, *mask = batch
        samples = Samples(inputs, targets, mask[0] if mask else None)
        grads, loss = self._gradients.of_batch(samples)
        rates = self._rates.index_select(0, number)[0]
        for place, group in enumerate(self._groups):
            self._ops.sign_step_by(*self._move_of(group, grads), rates[place])
        self._clamp()
        return [loss, *grads]
