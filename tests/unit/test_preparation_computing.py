"""How a run sets the process up, and puts it back.

Tests: autoround/preparation.py
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from autoround.device.registry import open_device
from autoround.events import Event
from autoround.model.skeleton import open_model
from autoround.pipeline import run
from autoround.preparation import Request, computing
from autoround.resume.policy import ResumeState

from ..runs import even_device, small, tensors_of
from ..tiny import token_ids

__all__ = ["even_device"]
Make = Callable[[str], Path]


def request(model: Path, values: dict[str, object]) -> Request:
    return Request(
        open_model(model), small(values), open_device("cpu"), "tiny", data=token_ids(4, 16)
    )


def state() -> tuple[int, bool]:
    return torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(
    ("values", "during"),
    [
        ({}, (1, False)),
        ({"tuning.threads": 2}, (2, False)),
        ({"tuning.deterministic": True}, (1, True)),
    ],
)
def test_a_run_has_the_threads_and_algorithms_of_its_recipe(
    values: dict[str, object], during: tuple[int, bool], checkpoint: Make, tmp_path: Path
) -> None:
    before = state()
    seen: set[tuple[int, bool]] = set()

    def sink(event: Event) -> None:
        seen.add(state())

    result = run(request(checkpoint("llama"), values), tmp_path / "out", sink=sink)
    assert seen == {during}
    assert state() == before
    assert (result.plan.tuning.threads, result.plan.tuning.deterministic) == during


def test_deterministic_algorithms_change_nothing_on_a_cpu(checkpoint: Make, tmp_path: Path) -> None:
    for name, wanted in (("without", False), ("with", True)):
        values: dict[str, object] = {"tuning.deterministic": wanted, "end_to_end.steps": 2}
        run(request(checkpoint("llama"), values), tmp_path / name, sink=lambda event: None)
    one, other = tensors_of(tmp_path / "without"), tensors_of(tmp_path / "with")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_continuation_has_the_threads_of_the_interrupted_run(checkpoint: Make) -> None:
    interrupted = ResumeState({"compute dtype": "float32", "threads": 3, "recipe": {}}, {}, None)
    with computing(request(checkpoint("llama"), {}), interrupted):
        assert torch.get_num_threads() == 3
    with computing(request(checkpoint("llama"), {"tuning.threads": 2}), interrupted):
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == 1
