"""The process of a run: its threads and algorithms, and that they are put back."""

from __future__ import annotations

import pytest
import torch

from autoround.device.registry import open_device
from autoround.planning.process import process_for
from autoround.settings import MachineSettings

from ...runs import small


def state() -> tuple[int, bool]:
    return torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()


def test_threads_of_a_recipe_come_before_those_of_an_interrupted_run() -> None:
    runtime, interrupted = open_device("cpu"), MachineSettings("float32", 3)
    before = state()
    with process_for(small({"tuning.threads": 2}), runtime, interrupted):
        assert state() == (2, False)
    with process_for(small(), runtime, interrupted):
        assert state() == (3, False)
    assert state() == before


def test_they_are_put_back_after_an_error() -> None:
    before = state()
    recipe = small({"tuning.threads": 2, "tuning.deterministic": True})

    def fail() -> None:
        with process_for(recipe, open_device("cpu"), None):
            assert state() == (2, True)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert state() == before
