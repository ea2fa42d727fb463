"""Fresh samples for end-to-end tuning: whole runs, stopped where it hurts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import autoround
from autoround.errors import OutputError
from autoround.events import BlockDone, EndToEndStep, Event
from autoround.recipe.load import load_recipe
from autoround.types import Destination, Plan

from ..runs import SMALL, content, even_device, tensors_of

__all__ = ["even_device"]

FRESH: dict[str, object] = {
    **SMALL,
    **{"scheme.bits": 2, "tuning.iters": 2, "end_to_end.steps": 20, "end_to_end.batch_size": 3},
    **{"end_to_end.tune_codes": True, "end_to_end.nsamples": 20},
}


class Stop(BaseException):
    """Ends a run from within."""


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("".join(f"word {number} and " for number in range(3000)))
    return path


@pytest.fixture(params=["memory", "disk", "low memory"])
def values(request: pytest.FixtureRequest, text: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """Keep the state after every step; streams in memory or mapped."""
    monkeypatch.setattr("autoround.tuning.end_to_end_state.INTERVAL", 0.0)
    if request.param == "disk":
        target = "autoround.planning.estimate.offload_to_disk"
        monkeypatch.setattr(target, lambda needs, budget: (True, True))
    low = {"tuning.low_memory": request.param == "low memory"}
    return {**FRESH, **low, "calibration.dataset": str(text)}


def quantize(
    model: Path, out: Path, values: dict[str, object], stop: Callable[[Event], bool] | None = None
) -> list[Event]:
    """Quantize, going on from what is there; returns the events."""
    events: list[Event] = []

    def sink(event: Event) -> None:
        events.append(event)
        if stop is not None and stop(event):
            raise Stop

    recipe = load_recipe("default", values=values)
    where = Destination(out, resume=True)
    autoround.quantize(model, recipe, output_dir=where, device="cpu", sink=sink)
    return events


def test_a_run_stopped_in_blocks_and_in_steps_comes_out_the_same(
    checkpoint: Callable[[str], Path], values: dict[str, object], tmp_path: Path
) -> None:
    model = checkpoint("llama")
    quantize(model, tmp_path / "whole", values)
    out = tmp_path / "out"
    with pytest.raises(Stop):
        quantize(model, out, values, lambda e: isinstance(e, BlockDone))
    with pytest.raises(Stop):
        quantize(model, out, values, lambda e: isinstance(e, EndToEndStep) and e.step == 7)
    events = quantize(model, out, values)
    steps = [event.step for event in events if isinstance(event, EndToEndStep)]
    assert steps == [*range(8, 21), 20]
    assert content(out) == content(tmp_path / "whole")
    assert not (tmp_path / "out.journal").exists()


def test_the_plan_says_them_and_other_ones_are_another_run(
    checkpoint: Callable[[str], Path], text: Path, tmp_path: Path
) -> None:
    model, named = checkpoint("llama"), {**FRESH, "calibration.dataset": str(text)}
    plan, estimate = autoround.plan(model, load_recipe("default", values=named), device="cpu")
    assert isinstance(plan, Plan)
    assert plan.tuning.end_to_end.nsamples == 20
    assert "end to end on" in plan.calibration
    fewer = {**named, "end_to_end.nsamples": 0}
    plain = autoround.plan(model, load_recipe("default", values=fewer), device="cpu")[1]
    assert estimate.stream_bytes > plain.stream_bytes
    with pytest.raises(Stop):
        quantize(model, tmp_path / "out", named, lambda e: isinstance(e, BlockDone))
    with pytest.raises(OutputError, match=r"end_to_end.nsamples: 20 then, 0 now"):
        quantize(model, tmp_path / "out", fewer)


def test_blocks_are_tuned_as_without_them(
    checkpoint: Callable[[str], Path], text: Path, tmp_path: Path
) -> None:
    model, scales_only = checkpoint("llama"), {**FRESH, "end_to_end.tune_codes": False}
    scales_only["calibration.dataset"] = str(text)
    quantize(model, tmp_path / "fresh", scales_only)
    quantize(model, tmp_path / "plain", {**scales_only, "end_to_end.steps": 0})
    fresh, plain = (tensors_of(tmp_path / name) for name in ("fresh", "plain"))
    assert fresh.keys() == plain.keys()
    other = {name for name, tensor in fresh.items() if not tensor.equal(plain[name])}
    assert other
    assert all(name.endswith("scales") for name in other)
