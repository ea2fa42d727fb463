"""How far a descent over the whole model has come, kept in the journal every so often."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from autoround.core.distill import AdamState
from autoround.stages.blocks import Job

#: Seconds of work that a stopped run may have to do again.
INTERVAL = 60.0
_NAME = "distill"


class Keeping:
    """Keeps the state of a descent, where there is a journal.

    params: the factors, which steps change in place. before: the score they began with.
    """

    def __init__(self, job: Job, params: Sequence[Tensor], before: float) -> None:
        self._journal, self._params, self._before = job.journal, params, before
        self._kept = time.monotonic()

    def keep(self, state: AdamState, *, after: float | None = None) -> None:
        """Keep the state, if it is time to or the descent is over.

        after: the score it ended with.
        """
        if self._journal is None or (after is None and time.monotonic() - self._kept < INTERVAL):
            return
        tensors = {
            f"{number}.{what}": tensor
            for what, all_of in _parts(self._params, state).items()
            for number, tensor in enumerate(all_of)
        }
        facts = {"step": state.step, "before": self._before, "after": after}
        self._journal.save_state(_NAME, {n: t.cpu() for n, t in tensors.items()}, facts)
        self._kept = time.monotonic()


def restored(
    job: Job, params: Sequence[Tensor], state: AdamState
) -> tuple[AdamState, dict[str, float]]:
    """Put the factors and the state back to where they were kept; returns what was scored."""
    found = None if job.journal is None else job.journal.load_state(_NAME)
    if found is None:
        return state, {}
    tensors, facts = found
    with torch.no_grad():
        for what, all_of in _parts(params, state).items():
            for number, tensor in enumerate(all_of):
                tensor.copy_(tensors[f"{number}.{what}"])
    scores = {name: facts[name] for name in ("before", "after") if facts[name] is not None}
    return state._replace(step=facts["step"]), scores


def _parts(params: Sequence[Tensor], state: AdamState) -> dict[str, Sequence[Tensor]]:
    return {"factor": params, "mean": state.means, "square": state.squares}
