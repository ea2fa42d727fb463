"""A step over the whole model goes block by block, and has the gradients of all of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.func import functional_call

from autoround.core.grids.grid import from_groups, to_groups
from autoround.core.rounding import dense_weight
from autoround.data.tokens import Tokens
from autoround.model.runner import BlockRunner
from autoround.session.block_output import BlockOutput
from autoround.session.session import Placement, Session
from autoround.tuning import end_to_end as stage
from autoround.tuning import end_to_end_step as one_step

from ...runs import even_device, logits, make_session, quantized, run_pass
from ...tiny import make_model, token_ids

__all__ = ["even_device"]

IDS = token_ids(24, 16)
COURSE: dict[str, object] = {
    **{"tuning.iters": 0, "tuning.init_scale": "search", "scheme.bits": 2},
    **{"end_to_end.steps": 12, "end_to_end.lr": 0.02, "end_to_end.batch_size": 4},
    **{"calibration.nsamples": 24, "tuning.batch_size": 4},
}


def open_end_to_end(job: Session) -> tuple[one_step.WholeModel, list[BlockOutput]]:
    runner = BlockRunner(job.skeleton, device=job.runtime.device, dtype=job.compute_dtype)
    assert job.tokens is not None
    runner.embed(job.tokens.ids[:2])
    runner.prepare(job.tokens.ids)
    done = run_pass(without_end_to_end(job))
    hidden = [runner.embed(job.tokens.ids)]
    for plan in job.plan.blocks:
        read = job.skeleton.read(job.skeleton.names_under(plan.name))
        inside = {n.removeprefix(plan.name + "."): t for n, t in read.items()}
        base = runner.place(inside) | runner.buffers(plan.index)
        with torch.no_grad():
            hidden.append(runner.run(plan.index, base, hidden=hidden[-1]))
    blocks = stage._open_blocks(job, runner, done)
    return one_step.WholeModel(job, runner, runner.outer(), blocks, job.tokens, hidden[-1]), done


def without_end_to_end(session: Session) -> Session:
    tuning = replace(session.tuning, end_to_end=replace(session.tuning.end_to_end, steps=0))
    return replace(session, plan=replace(session.plan, tuning=tuning))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2", "opt"])
@pytest.mark.parametrize("padded", [False, True])
def test_the_gradient_block_by_block_is_that_of_the_whole_model(kind: str, padded: bool) -> None:
    model = make_model(kind)
    job = make_session(model, COURSE, data=IDS)
    lengths = torch.full((len(IDS),), 16 if not padded else 11)
    job = replace(job, tokens=Tokens(IDS, lengths, "given"))
    course, _ = open_end_to_end(job)
    rows = torch.tensor([3, 5, 8])
    loss, grads = one_step.gradients(course, rows, units=0)
    factors = {n: f.clone().requires_grad_() for b in course.blocks for n, f in b.factors.items()}
    layers = {n: x for b in course.blocks for n, x in b.open().layers.items()}
    turned = {x.name for b in job.plan.blocks for x in b.layers if x.transposed}
    weights = {}
    for name, factor in factors.items():
        layer = layers[name]
        groups = to_groups(dense_weight(layer), layer.scheme.group_size)
        dense = from_groups(groups * factor, tuple(layer.codes.shape))
        weights[f"{name}.weight"] = dense.t() if name in turned else dense
    ids, real = IDS[rows], job.tokens.mask[rows]  # type: ignore[union-attr]
    own = functional_call(model, weights, (), {"input_ids": ids, "use_cache": False}).logits
    p, q = logits(model, ids).log_softmax(-1)[real], own.log_softmax(-1)[real]
    wanted = (p.exp() * (p - q)).sum(-1).mean()
    assert loss == pytest.approx(float(wanted), rel=1e-4)
    exact = torch.autograd.grad(wanted, list(factors.values()))
    for got, other in zip(grads, exact, strict=True):
        torch.testing.assert_close(got, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_graphs_that_are_held_change_no_bit(kind: str, dtype: str) -> None:
    model = make_model(kind)
    values = {**COURSE, "end_to_end.tune_codes": True, "tuning.compute_dtype": dtype}
    job = make_session(model, values, data=IDS)
    assert job.placement.graphs_held
    again, held = quantized(replace(job, placement=Placement())), quantized(job)
    for name, layer in again.items():
        assert torch.equal(layer.codes, held[name].codes)
        assert torch.equal(layer.scale, held[name].scale)


def test_a_block_runs_once_a_step_where_graphs_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("llama")
    session = replace(make_session(model, COURSE, data=IDS), placement=Placement())
    course, _ = open_end_to_end(session)
    runs: list[int] = []
    visit = one_step.run_block

    def counted(
        course: one_step.WholeModel, block: one_step.TunedBlock, *rest: Any
    ) -> one_step.BlockRun:
        runs.append(block.plan.index)
        return visit(course, block, *rest)

    monkeypatch.setattr(one_step, "run_block", counted)
    one_step.gradients(course, torch.arange(4), units=0)
    last = len(course.blocks) - 1
    assert runs == [*range(last + 1), *range(last, -1, -1)]
    runs.clear()
    held = course._replace(session=replace(course.session, placement=Placement(graphs_held=True)))
    one_step.gradients(held, torch.arange(4), units=0)
    assert runs == [*range(last + 1)]
