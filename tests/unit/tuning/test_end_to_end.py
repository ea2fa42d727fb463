from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.func import functional_call

from autoround.core.rounding import dense_weight
from autoround.events import EndToEndStep, Event, ignore
from autoround.inference.load import load
from autoround.pipeline import Deliver, write_passes
from autoround.preparation import open_session
from autoround.resume.journal import PassJournal
from autoround.session.session import Session
from autoround.tuning import end_to_end as stage

from ...runs import (
    NEAREST,
    even_device,
    logits,
    make_prepared,
    make_session,
    quantized,
    run_pass,
    same,
)
from ...tiny import make_model, token_ids

__all__ = ["even_device"]

IDS = token_ids(24, 16)
COURSE: dict[str, object] = {
    **{"tuning.iters": 0, "tuning.init_scale": "search", "scheme.bits": 2},
    **{"end_to_end.steps": 12, "end_to_end.lr": 0.02, "end_to_end.batch_size": 4},
    **{"calibration.nsamples": 24, "tuning.batch_size": 4},
}


def divergence(model: Any, job: Session, layers: dict[str, Any], ids: torch.Tensor) -> float:
    """Return the mean KL of a model with quantized weights from the model itself."""
    turned = {x.name for b in job.plan.blocks for x in b.layers if x.transposed}
    dense = {n: dense_weight(x) for n, x in layers.items()}
    weights = {f"{n}.weight": w.t() if n in turned else w for n, w in dense.items()}
    with torch.no_grad():
        own = functional_call(model, weights, (), {"input_ids": ids, "use_cache": False}).logits
    p, q = logits(model, ids).log_softmax(-1), own.log_softmax(-1)
    return float((p.exp() * (p - q)).sum(-1).mean())


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_codes_that_may_move_bring_the_answers_closer_still(kind: str) -> None:
    model = make_model(kind)
    course = {**COURSE, "end_to_end.steps": 48}
    scales = quantized(make_session(model, course, data=IDS))
    job = make_session(model, {**course, "end_to_end.tune_codes": True}, data=IDS)
    both = quantized(job)
    apart = [x.codes.int() - scales[n].codes.int() for n, x in both.items()]
    moved = sum(int((x != 0).sum()) for x in apart) / sum(x.numel() for x in apart)
    assert 0.0 < moved < 0.2
    assert max(int(x.codes.max()) for x in both.values()) <= 3
    assert divergence(model, job, both, IDS) < 0.97 * divergence(model, job, scales, IDS)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2"])
def test_the_answers_come_closer_and_no_code_moves(kind: str) -> None:
    model = make_model(kind)
    events: list[Event] = []
    job = make_session(model, COURSE, data=IDS, sink=events.append)
    plain = quantized(make_session(model, {**COURSE, "end_to_end.steps": 0}, data=IDS))
    tuned = quantized(job)
    assert divergence(model, job, tuned, IDS) < 0.97 * divergence(model, job, plain, IDS)
    for name, layer in tuned.items():
        assert torch.equal(layer.codes, plain[name].codes)
        assert torch.equal(layer.zero, plain[name].zero)
    assert any(not torch.equal(x.scale, plain[n].scale) for n, x in tuned.items())
    steps = [event for event in events if isinstance(event, EndToEndStep)]
    assert [event.step for event in steps] == [*range(1, 13), 12]
    assert steps[-1].initial_loss is not None
    assert steps[-1].loss < steps[-1].initial_loss


def test_scales_that_do_harm_are_not_kept() -> None:
    model = make_model("llama")
    values = {**COURSE, "end_to_end.lr": 3.0, "end_to_end.steps": 3}
    plain = quantized(make_session(model, {**COURSE, "end_to_end.steps": 0}, data=IDS))
    tuned = quantized(make_session(model, values, data=IDS))
    for name, layer in tuned.items():
        assert torch.equal(layer.scale, plain[name].scale)


def test_plain_rounding_can_be_followed_by_it() -> None:
    values = {**COURSE, **NEAREST}
    job = make_session(make_model("llama"), values, data=IDS)
    assert job.tokens is not None
    plain = quantized(make_session(make_model("llama"), {**NEAREST, "scheme.bits": 2}))
    assert any(not torch.equal(x.scale, plain[n].scale) for n, x in quantized(job).items())


def test_what_is_written_is_what_was_tuned(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    prepared = make_prepared(checkpoint("llama"), COURSE, data=IDS)
    session = open_session(prepared, sink=ignore)
    done = run_pass(session)

    def produce(session: Session, deliver: Deliver) -> None:
        for output in done:
            deliver(output)

    write_passes(prepared, [session], tmp_path / "out", produce=produce)
    model = load(tmp_path / "out", device="cpu", dense=True)
    for output in done:
        for name, layer in output.layers.items():
            weight = model.get_submodule(name).weight
            assert torch.equal(weight, dense_weight(layer))  # type: ignore[arg-type]


def test_gguf_is_left_out_and_the_plan_says_so(checkpoint: Callable[[str], Path]) -> None:
    values = {**COURSE, "output.format": "gguf:q8_0", "end_to_end.steps": 2}
    job = make_session(checkpoint("llama"), values, data=IDS)
    assert any("end_to_end is left out for gguf:q8_0" in note for note in job.plan.notes)
    assert job.tuning.end_to_end.steps == 0


MANY = token_ids(48, 16)
FRESH: dict[str, object] = {**COURSE, "calibration.nsamples": 24, "end_to_end.nsamples": 24}


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_steps_on_fresh_samples_leave_the_blocks_and_bring_the_logits_closer(kind: str) -> None:
    model = make_model(kind)
    plain = quantized(make_session(model, {**COURSE, "end_to_end.steps": 0}, data=MANY))
    job = make_session(model, FRESH, data=MANY)
    assert job.fresh is not None
    tuned = quantized(job)
    for name, layer in tuned.items():
        assert torch.equal(layer.codes, plain[name].codes)
    assert any(not torch.equal(x.scale, plain[n].scale) for n, x in tuned.items())
    reused = quantized(make_session(model, COURSE, data=MANY))
    assert not same(tuned, reused)
    assert divergence(model, job, tuned, MANY) < 0.97 * divergence(model, job, plain, MANY)


def test_the_teacher_of_fresh_samples_is_the_full_precision_model() -> None:
    model = make_model("llama")
    seen: list[torch.Tensor] = []
    job = make_session(model, {**FRESH, "end_to_end.steps": 1}, data=MANY)

    def noted(*args: Any, teacher: torch.Tensor) -> Any:
        seen.append(teacher)
        return stage.tune_end_to_end(*args, teacher=teacher)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("autoround.pipeline.tune_end_to_end", noted)
        run_pass(job)
    with torch.no_grad():
        norm = model.get_submodule("model.norm")
        hidden = model(input_ids=MANY[24:], output_hidden_states=True).hidden_states[-1]
    torch.testing.assert_close(norm(seen[0]), hidden, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("fresh", "count", "trained", "validating"),
    [(True, 24, 16, 8), (True, 5, 3, 2), (True, 2, 1, 1), (False, 24, 16, 8), (False, 9, 9, 9)],
)
def test_no_sample_is_trained_on_and_validates(
    fresh: bool, count: int, trained: int, validating: int
) -> None:
    job = make_session(make_model("llama"), FRESH if fresh else COURSE, data=MANY)
    training, validation = stage._split_samples(job, count)
    assert (len(training), len(validation)) == (trained, validating)
    every = set(training.tolist()) | set(validation.tolist())
    assert every == set(range(count))
    if fresh or count >= 16:
        assert not set(training.tolist()) & set(validation.tolist())


HARM: dict[str, object] = {**COURSE, "end_to_end.lr": 3.0, "end_to_end.steps": 20}


def test_steps_that_do_harm_end_after_a_fifth(tmp_path: Path) -> None:
    model = make_model("llama")
    events: list[Event] = []
    plain = quantized(make_session(model, {**HARM, "end_to_end.steps": 0}, data=IDS))
    job = make_session(model, HARM, data=IDS, sink=events.append)
    store = PassJournal(tmp_path / "pass-1", tmp_path / "streams")
    assert same(quantized(replace(job, store=store)), plain)
    steps = [event for event in events if isinstance(event, EndToEndStep)]
    assert [event.step for event in steps] == [1, 2, 3, 4, 4]
    assert steps[-1].initial_loss is not None
    assert steps[-1].loss >= steps[-1].initial_loss
    # The journal knows: going on takes no step.
    events.clear()
    again = PassJournal(tmp_path / "pass-1", tmp_path / "streams")
    assert same(quantized(replace(job, store=again)), plain)
    assert [event for event in events if isinstance(event, EndToEndStep)] == steps[-1:]


def test_a_stage_stopped_at_its_trial_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autoround.tuning.end_to_end_state.INTERVAL", 0.0)
    model = make_model("llama")
    events: list[Event] = []

    def stopping(event: Event) -> None:
        events.append(event)
        if isinstance(event, EndToEndStep) and event.step == 4:
            raise KeyboardInterrupt

    job = make_session(model, HARM, data=IDS, sink=stopping)
    with pytest.raises(KeyboardInterrupt):
        quantized(replace(job, store=PassJournal(tmp_path / "pass-1", tmp_path / "streams")))
    events.clear()
    store = PassJournal(tmp_path / "pass-1", tmp_path / "streams")
    found = quantized(replace(job, store=store, sink=events.append))
    assert same(found, quantized(make_session(model, {**HARM, "end_to_end.steps": 0}, data=IDS)))
    steps = [event for event in events if isinstance(event, EndToEndStep)]
    assert [(event.step, event.initial_loss is None) for event in steps] == [(4, False)]
