"""The process of a run: its threads, and whether its algorithms are deterministic."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from autoround.device.process import use_deterministic, use_threads
from autoround.device.protocol import Runtime
from autoround.planning.hyperparameters import settle_threads
from autoround.recipe.schema import Recipe
from autoround.settings import MachineSettings


@contextmanager
def process_for(
    recipe: Recipe, runtime: Runtime, interrupted: MachineSettings | None
) -> Iterator[None]:
    """Set the process up as a device and a recipe want it, and put it back.

    Args:
        recipe: of the run.
        runtime: the device.
        interrupted: what an interrupted run was settled to, taken over; None for a new one.
    """
    threads = settle_threads(recipe, runtime, interrupted)
    deterministic = use_deterministic(recipe.tuning.deterministic)
    with runtime.computing(), use_threads(threads), deterministic:
        yield
