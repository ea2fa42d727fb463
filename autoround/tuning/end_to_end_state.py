"""How far a descent over the whole model has come, kept in the journal every so often."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from autoround.core.end_to_end import AdamState
from autoround.session.session import Session

#: Seconds of work that a stopped run may have to do again.
INTERVAL = 60.0
_NAME = "distill"


class StateKeeper:
    """Keeps the state of a descent, where there is a journal.

    learned: what steps change in place, by what it is.
    """

    def __init__(self, job: Session, learned: Mapping[str, Sequence[Tensor]]) -> None:
        self._journal, self._learned = job.journal, learned
        self._kept = time.monotonic()

    def keep(self, state: AdamState, *, before: float, after: float | None = None) -> None:
        """Keep the state, if it is time to or the descent is over.

        before, after: the scores it began and ended with.
        """
        if self._journal is None or (after is None and time.monotonic() - self._kept < INTERVAL):
            return
        tensors = {name: tensor.cpu() for name, tensor in self._tensors(state).items()}
        facts = {"step": state.step, "before": before, "after": after}
        self._journal.save_state(_NAME, tensors, facts)
        self._kept = time.monotonic()

    def restore(self, state: AdamState) -> tuple[AdamState, dict[str, float]]:
        """Put everything back to where it was kept last; returns what was scored by then."""
        found = None if self._journal is None else self._journal.load_state(_NAME)
        if found is None:
            return state, {}
        tensors, facts = found
        with torch.no_grad():
            for name, tensor in self._tensors(state).items():
                tensor.copy_(tensors[name])
        scores = {name: facts[name] for name in ("before", "after") if facts[name] is not None}
        return state._replace(step=facts["step"]), scores

    def _tensors(self, state: AdamState) -> dict[str, Tensor]:
        every = {**self._learned, "mean": state.means, "square": state.squares}
        return {
            f"{number}.{what}": tensor
            for what, all_of in every.items()
            for number, tensor in enumerate(all_of)
        }
