"""How far end-to-end tuning has come, saved to the store every so often."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from autoround.core.end_to_end import AdamState
from autoround.session.session import Session

#: Seconds of work that an interrupted run may have to do again.
INTERVAL = 60.0
_NAME = "end_to_end"


class StateKeeper:
    """Saves the optimizer's state, where there is a store.

    Args:
        session: the pass.
        learned: what steps change in place, by its name.
    """

    def __init__(self, session: Session, learned: Mapping[str, Sequence[Tensor]]) -> None:
        self._store, self._learned = session.store, learned
        self._saved = time.monotonic()

    def keep(self, state: AdamState, *, before: float, after: float | None = None) -> None:
        """Save the state, if it is time to or the last step is done.

        Args:
            state: of the optimizer.
            before, after: validation losses before the first and after the last step.
        """
        due = time.monotonic() - self._saved >= INTERVAL
        if self._store is None or (after is None and not due):
            return
        tensors = {name: tensor.cpu() for name, tensor in self._tensors(state).items()}
        facts = {"step": state.step, "before": before, "after": after}
        self._store.save_state(_NAME, tensors, facts)
        self._saved = time.monotonic()

    def restore(self, state: AdamState) -> tuple[AdamState, dict[str, float]]:
        """Put everything back to where it was saved last; returns the losses known by then."""
        saved = None if self._store is None else self._store.load_state(_NAME)
        if saved is None:
            return state, {}
        tensors, facts = saved
        with torch.no_grad():
            for name, tensor in self._tensors(state).items():
                tensor.copy_(tensors[name])
        losses = {name: facts[name] for name in ("before", "after") if facts[name] is not None}
        return state._replace(step=facts["step"]), losses

    def _tensors(self, state: AdamState) -> dict[str, Tensor]:
        groups = {**self._learned, "mean": state.means, "square": state.squares}
        return {
            f"{number}.{name}": tensor
            for name, tensors in groups.items()
            for number, tensor in enumerate(tensors)
        }
